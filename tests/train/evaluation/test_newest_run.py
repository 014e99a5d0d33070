"""Without --checkpoint the newest run answers, and is named."""

import os
from pathlib import Path

import pytest

from svp.pipeline.errors import MissingError
from svp.train.evaluation import load_trained
from svp.train.evaluation.load_trained import newest_checkpoint


def test_the_newest_run_is_taken_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(load_trained, "named_checkpoint", lambda run: run)
    caplog.set_level("INFO", logger="svp")
    for when, name in enumerate(("new", "old", "untrained")):
        folder = tmp_path / name
        (folder / ("checkpoints/step-00000002" if name != "untrained" else ".")).mkdir(parents=True)
        os.utime(folder, (1000 - when, 1000 - when))
    found: object = newest_checkpoint(tmp_path)
    assert found == tmp_path / "new"
    assert caplog.messages == [f"model: {tmp_path / 'new'}, the newest run"]
    with pytest.raises(MissingError, match="no trained model"):
        newest_checkpoint(tmp_path / "untrained")
