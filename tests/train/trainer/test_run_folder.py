"""A run's folder: what happens to its logs and checkpoints when the system refuses to write."""

import errno
import json
import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from svp.pipeline.errors import CacheError
from svp.train.recipe import METRICS
from svp.train.trainer import checkpoint
from svp.train.trainer.checkpoint import State, save_checkpoint
from svp.train.trainer.run_folder import RunFolder


@pytest.mark.parametrize("name", [METRICS, "log.txt"])
def test_a_full_disk_is_one_clear_error(name: str, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to("/dev/full")  # every write there fails with ENOSPC
    folder = RunFolder(tmp_path)
    with pytest.raises(CacheError, match=rf"{name}: No space left on device.*same command again"):
        if name == METRICS:
            folder.metrics(1, {"loss": 0.5})
        else:
            folder.log("hello")


def test_lines_after_the_resumed_step_are_taken_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, trackers=())
    for step in range(1, 5):
        folder.metrics(step, {"loss": step / 2})
    with open(tmp_path / METRICS, "a") as file:
        file.write('{"step": 5, "lo')  # the run was killed here
    folder.open(3)
    folder.close()
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert lines == [{"step": step, "loss": step / 2} for step in (1, 2, 3)]


@pytest.mark.parametrize(
    ("refused", "remedy"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "free some space and .*--resume auto"),
        (SafetensorError("I/O error: full (os error 28)"), "free some space and .*--resume auto"),
        (OSError(errno.EACCES, os.strerror(errno.EACCES)), "Permission denied: give another path"),
        (SafetensorError("I/O error: no (os error 13)"), "Permission denied: give another path"),
        (SafetensorError("no such dtype"), "cannot be written: no such dtype: give another path"),
    ],
)
def test_a_checkpoint_that_cannot_be_written_has_the_remedy_of_its_cause(
    refused: Exception, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise refused

    monkeypatch.setattr(checkpoint, "save_file", refuse)
    state = State(
        schema_version=1, step=2, stage=0, stage_step=2, recipe={}, data={}, cursor={}, world=1,
        micro_batch=1,
    )  # fmt: skip
    with pytest.raises(CacheError, match=rf"step-00000002: .*{remedy}") as told:
        save_checkpoint(tmp_path, state, {}, {})
    assert ("space" in str(told.value)) == ("space" in remedy)
    assert not list(tmp_path.iterdir())
