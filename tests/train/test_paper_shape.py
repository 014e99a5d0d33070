"""The paper's shapes for real: LLaMA-7B's width, SVP's 52M, DINOv2-large features at 24x24.

Random weights and two layers instead of 32, through the same functions as the commands: cache,
one step of either stage, evaluation, export.
"""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from svp.model.pretrained import load_pretrained
from svp.model.projectors.svp import SVP
from svp.pipeline.cache import CacheReader
from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.errors import PlanMismatchError
from svp.pipeline.precompute.launch import Request, launch, open_request
from svp.pipeline.precompute.options import Flags
from svp.pipeline.precompute.run import RunOptions
from svp.train.evaluation.results import read_results, write_results
from svp.train.runs.evaluate import EvalRequest, eval_command
from svp.train.runs.export import ExportRequest, export_command
from svp.train.runs.inputs import DataRequest, TrainRequest
from svp.train.runs.train import train_command

RECIPE = """
name: paper-shape
model:
  init: none
  lm: random:0
  shape: {hidden: 4096, intermediate: 11008, layers: 2, heads: 32, kv_heads: 32}
  sam_decoder: shipped
  vision: {encoder: dinov2-large, size: 336}
  projector: {name: svp}
  dtype: float32
stages:
  - {name: align, steps: 1, warmup: 0, add_sspe: false}
  - {name: finetune, steps: 1, warmup: 0, add_sspe: true, lora: true}
global_batch: 2
run: {micro_batch: 2, gradient_checkpointing: true, keep: 1, log: 1, preview: 0, threads: 1}
"""


def cache(data: Path, out: Path) -> CacheReader:
    """A cache of two scenes: tiny SAM's superpixels, random DINOv2-large features."""
    flags = Flags(encoder="dinov2-large", encoder_weights="random:0", store_sam_embeddings=True)
    request = Request(
        dataset=str(data),
        split="train",
        out=out,
        flags=flags,
        overrides=("features.size=336",),
        run=RunOptions(workers=0),
        quiet=True,
    )
    launch(request, open_request(request))
    return CacheReader(out, "always")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_one_step_of_either_stage_an_evaluation_and_an_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = write_scenes(Path("scenes"), images=2, seed=0, splits={"train": 2})
    reader = cache(data, Path("train"))
    assert (reader.plan.grid, reader.plan.channels) == ((24, 24), 1024)
    recipe = Path("recipe.yaml")
    recipe.write_text(RECIPE)
    words = DataRequest(dataset=str(data))
    request = TrainRequest(caches=(Path("train"),), data=words, recipe_file=recipe, device="cpu")
    trained = train_command(request)
    lines = (trained.folder / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == trained.steps == 2
    assert all(math.isfinite(json.loads(line)["loss"]) for line in lines)

    evaluation = EvalRequest(
        data=words,
        split="train",
        caches=(Path("train"),),
        batch=2,
        device="cpu",
        bounds=False,
        limit=1,
        out=Path("results.jsonl"),
    )
    (split,) = eval_command(evaluation).splits
    assert split.size.sentences > 0
    assert 0 <= split.values["gIoU"].value <= 1
    assert 1 <= split.tokens[0] <= reader.plan.k

    export = ExportRequest(out=Path("model"), cache=Path("train"), results=(Path("results.jsonl"),))
    report = export_command(export)
    parts = report.files["model.safetensors"] + report.files["svp.safetensors"]
    assert parts > 4 * (2 * 202_383_360 + 52_373_376)
    assert "gIoU" in Path("model/README.md").read_text()
    model = load_pretrained(Path("model"))
    assert isinstance(model.projector, SVP) and model.projector.add_sspe
    assert sum(p.numel() for p in model.projector.parameters()) == 52_373_376
    assert model.lm.config.hidden_size == 4096

    other = read_results(Path("results.jsonl"))
    digests = other.header.digests | {"checkpoint": "0" * 64}
    changed = replace(other, header=other.header.model_copy(update={"digests": digests}))
    write_results(Path("other.jsonl"), changed)
    foreign = ExportRequest(out=Path("no"), cache=Path("train"), results=(Path("other.jsonl"),))
    with pytest.raises(PlanMismatchError, match="this one is"):
        export_command(foreign)
    assert not Path("no").exists()
    shutil.rmtree("runs")  # 4 GB
    shutil.rmtree("model")
