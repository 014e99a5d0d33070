"""What bfloat16 and int8 weights cost: gIoU of the shipped tiny model on generated scenes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from svp.cli import main
from svp.model.inference.int8_linear import use_int8
from svp.model.inference.precision import cast_weights
from svp.pipeline.cache import CacheReader
from svp.pipeline.datasets import open_dataset
from svp.pipeline.datasets.scenes import write_scenes
from svp.train.data.collate import CachedVisuals
from svp.train.evaluation.evaluate import Settings, evaluate
from svp.train.evaluation.protocols import examples, plan
from svp.train.factory import assemble
from svp.train.metrics import Counts, metrics
from svp.train.options import Places
from svp.train.recipe import parse_train_recipe

IMAGES = 24
# The projector that the shipped weights were made with: nothing is left to train.
RECIPE = {
    "model": {
        "init": "shipped", "vision": {"encoder": "tiny", "size": 128}, "warm_projector": True,
        "dtype": "float32", "projector": {"name": "mlp"},
    },
    "stages": [{"name": "none", "steps": 1, "warmup": 0}],
}  # fmt: skip


@pytest.mark.slow
def test_answers_of_fewer_bits_are_as_good(tmp_path: Path) -> None:
    scenes = write_scenes(
        tmp_path / "scenes", images=IMAGES + 1, seed=5, splits={"train": 1, "val": IMAGES}
    )
    words = ("precompute", str(scenes), "--split", "val", "--out", str(tmp_path / "cache"),
             "--size", "tiny", "--store-sam-embeddings", "--device", "cpu")  # fmt: skip
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    reader = CacheReader(tmp_path / "cache")
    items = examples(open_dataset(scenes, split="val"), [reader])

    def score(*, half: bool, int8: bool) -> float:
        made = assemble(parse_train_recipe(RECIPE, "tiny"), reader.plan, Places())
        model = made.model.eval().requires_grad_(False)
        if int8:
            use_int8(model.lm)
        if half:
            for parameter in model.lm.parameters():
                if parameter.is_floating_point():
                    parameter.data = parameter.data.to(torch.bfloat16)
            cast_weights(model)
        units = plan(items, "full", wording=made.vocab.wording)
        visuals = CachedVisuals((reader,), model.projector.needs)
        rows = evaluate(model, units, made.vocab, visuals, Settings())
        counts = np.array([(r.intersection, r.union, r.target) for r in rows]).T
        return metrics(Counts(*counts))["gIoU"]

    exact = score(half=False, int8=False)
    assert exact > 0.7
    assert abs(score(half=True, int8=False) - exact) < 0.005
    assert abs(score(half=False, int8=True) - exact) < 0.01
    assert abs(score(half=True, int8=True) - exact) < 0.01
