"""From a folder of the hub to a step of training, resumed; another encoder's cache is refused."""

import json
import math
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from support.hub_encoders import narrow, write_folder
from svp.cli import main
from svp.pipeline.cache.reader import CacheReader
from svp.pipeline.datasets.scenes import write_scenes

MODEL = ("--set", "model.init=none", "--set", "model.lm=random:0", "--set", "run.preview=0",
         "--set", "model.sam_decoder=shipped", "--set", "model.warm_projector=false",
         "--set", "model.shape={hidden: 32, intermediate: 64, layers: 1, heads: 2, kv_heads: 2}",
         "--set", "model.projector={name: svp, options: {ssa_heads: 4, sspe_dim: 16}}",
         "--set", "global_batch=2", "--set", "run.micro_batch=2", "--set", "run.checkpoint=1",
         "--set", "stages=[{name: one, steps: 2, warmup: 0}]")  # fmt: skip


def losses(run: Path) -> list[float]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [row["loss"] for row in map(json.loads, lines) if "loss" in row]


@pytest.mark.parametrize(
    "name", ["dinov3-huge-plus", "pe-spatial-large", "siglip2-giant-384", "c-radio-v4-h"]
)
def test_a_step_on_each_encoder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = narrow(monkeypatch, name)
    monkeypatch.chdir(tmp_path)
    write_folder(spec, Path("folder"))
    write_scenes(Path("scenes"), images=3, seed=0, splits={"train": 2, "val": 1})

    def svp(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(main, words)
        assert done.exit_code == code, done.output
        return done.output

    cut = ("precompute", "--dataset", "scenes", "--split", "train", "--workers", "0", "--quiet",
           "--device", "cpu", "--encoder", name, "--encoder-weights")  # fmt: skip
    svp(*cut, "folder", "--out", "own")
    svp(*cut, "random:1", "--out", "other")
    plan = CacheReader(Path("own")).plan
    assert (plan.grid, plan.channels, plan.recipe.features.size) == ((4, 4), 32, spec.size)
    assert ("timm" in plan.recipe.libraries) == (name.startswith("pe-"))
    vision = ("--set", f"model.vision.encoder={name}", "--set", f"model.vision.size={spec.size}")
    train = ("train", "--device", "cpu", *MODEL)
    svp(*train, *vision, "--from-cache", "own")
    (run,) = Path("runs").iterdir()
    whole = losses(run)
    assert len(whole) == 2 and all(map(math.isfinite, whole))
    shutil.rmtree(max((run / "checkpoints").glob("step-*")))
    svp(*train, *vision, "--from-cache", "own", "--resume", "auto")
    assert losses(run) == whole
    said = svp(*train, *vision, "--from-cache", "other", "--resume", str(run), code=2)
    assert "belongs to another run" in said
    said = svp("eval", "--from-cache", "other", "--split", "train", "--device", "cpu", code=2)
    assert f"holds features of {name} random:1" in said
    said = svp(*train, "--from-cache", "own", code=2)
    assert f"was made with {name}" in said and f"model.vision.encoder={name}" in said
