"""The whole path can learn: eight scenes are learned by heart (complaints table, LISA #135, #188)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.precompute import launch as precompute
from svp.pipeline.precompute.options import Flags
from svp.pipeline.precompute.run import RunOptions
from svp.train.data.collate import CachedVisuals
from svp.train.evaluation.evaluate import Settings, evaluate
from svp.train.evaluation.load_trained import open_trained
from svp.train.evaluation.protocols import examples, plan
from svp.train.metrics import Counts, metrics
from svp.train.options import TrainFlags
from svp.train.runs import inputs
from svp.train.runs.inputs import DataRequest, TrainRequest, open_training
from svp.train.runs.train import train_command
from svp.train.trainer.resume import named_checkpoint


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_eight_scenes_reach_a_giou_of_09(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "TABLES", tmp_path / "tables")
    write_scenes(tmp_path / "scenes", images=24, seed=11)
    wanted = precompute.Request(
        dataset=str(tmp_path / "scenes"),
        split="train",
        out=tmp_path / "cache",
        flags=Flags(store_sam_embeddings=True),
        run=RunOptions(workers=0, limit=8),
        quiet=True,
    )
    precompute.launch(wanted, precompute.open_request(wanted))
    request = TrainRequest(
        caches=(tmp_path / "cache",),
        data=DataRequest(dataset=str(tmp_path / "scenes")),
        overrides=(
            "stages.0.steps=500", "stages.1.steps=300", "data.sentences_per_image=8",
            "global_batch=8", "run.micro_batch=8", "run.preview=0", "run.checkpoint=10000",
        ),
        runs=tmp_path / "runs",
        device="cpu",
        partial=True,
    )  # fmt: skip
    report = train_command(request)

    opened = open_training(request, "cpu")
    readers = opened.readers
    trained = open_trained(named_checkpoint(report.checkpoint), readers[0].plan, TrainFlags())
    known = readers[0].index_of.keys()
    said = tuple(s for s in opened.source.sentences if s.image_id in known)
    units = plan(examples(replace(opened.source, sentences=said), readers), "full")
    visuals = CachedVisuals(readers, trained.model.projector.needs)
    rows = evaluate(trained.model, units, trained.vocab, visuals, Settings())
    table = np.array([(row.intersection, row.union, row.target) for row in rows]).T
    assert metrics(Counts(*table))["gIoU"] >= 0.9
