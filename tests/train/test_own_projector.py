"""The documentation's projector, registered from outside the package, trains and is evaluated."""

import re
import runpy
from pathlib import Path

import pytest

import svp
from svp.model.projectors import PROJECTORS
from svp.pipeline.executors import ExecutorOptions
from svp.pipeline.run.launch import Request, launch, open_request
from svp.pipeline.run.precompute import RunOptions
from svp.pipeline.run.settings import Flags
from svp.pipeline.scenes import write_scenes
from svp.train import opening
from svp.train.eval_run import EvalRequest, eval_command
from svp.train.launch import train_command
from svp.train.opening import DataRequest, TrainRequest
from svp.train.settings import TrainFlags

DOCS = Path(svp.__file__).parent / "docs" / "projectors.md"
SMALL = (
    "model.shape={hidden: 32, intermediate: 64, layers: 1, heads: 2, kv_heads: 2}",
    "stages.0={name: align, steps: 1, warmup: 0, add_sspe: false}",
    "stages.1={name: finetune, steps: 1, warmup: 0, lora: true}",
    "global_batch=2",
    "run={micro_batch: 2, gradient_checkpointing: false, preview: 0}",
)


def documented() -> str:
    """The code block of the chapter about adding a projector."""
    chapter = DOCS.read_text("utf-8").split("## Adding one", 1)[1]
    found = re.search(r"```python\n(.*?)```", chapter, re.DOTALL)
    assert found is not None
    return found[1]


def test_it_is_short() -> None:
    assert len([line for line in documented().splitlines() if line.strip()]) < 30


def test_register_train_and_evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "TABLES", tmp_path / "tables")
    scenes = write_scenes(tmp_path / "scenes", images=4, seed=3, splits={"train": 2, "val": 2})
    for split in ("train", "val"):
        request = Request(
            dataset=str(scenes), split=split, out=tmp_path / split, quiet=True,
            flags=Flags(points_per_side=4, store_sam_embeddings=True),
            run=RunOptions(executor_options=ExecutorOptions(workers=0)),
        )  # fmt: skip
        launch(request, open_request(request))
    before = set(PROJECTORS)
    try:
        outside = tmp_path / "outside.py"
        outside.write_text(documented())
        runpy.run_path(str(outside))
        (name,) = set(PROJECTORS) - before
        data = DataRequest(dataset=str(scenes))
        flags = TrainFlags(projector=name, lm="random:0", sam_decoder="shipped")
        trained = train_command(TrainRequest(
            caches=(tmp_path / "train",), data=data, flags=flags, overrides=SMALL,
            runs=tmp_path / "runs", device="cpu", say=lambda line: None,
        ))  # fmt: skip
        assert trained.steps == 2
        report = eval_command(EvalRequest(
            data=data, split="val", caches=(tmp_path / "val",), checkpoint=trained.folder,
            bounds=False, device="cpu", say=lambda line: None,
        ))  # fmt: skip
        assert report.splits[0].tokens == (1.0, 1.0), "one token per image, as the class says"
    finally:
        for name in set(PROJECTORS) - before:
            del PROJECTORS[name]
