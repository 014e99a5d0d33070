"""A run's folder: what happens to its logs when the disk is full."""

import json
from pathlib import Path

import pytest

from svp.pipeline.errors import CacheError
from svp.train.trainer.run_folder import METRICS, RunFolder


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
    folder = RunFolder(tmp_path)
    for step in range(1, 5):
        folder.metrics(step, {"loss": step / 2})
    with open(tmp_path / METRICS, "a") as file:
        file.write('{"step": 5, "lo')  # the run was killed here
    folder.open(3)
    folder.close()
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert lines == [{"step": step, "loss": step / 2} for step in (1, 2, 3)]
