"""`svp status RUN`: what a run says of itself while it trains, at its end, and once it was killed."""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from support import micro_run
from svp.cli import main
from svp.pipeline.errors import CacheError, MissingError
from svp.train.recipe import CONFIG
from svp.train.trainer.monitor import Watch, busy_share
from svp.train.trainer.run_status import RunWatch, status_record


def write(run: Path, **changes: Any) -> None:
    numbers = {"loss": 0.5, "gIoU": 61.5, "rate/images": 4.0, "rate/tokens": 1200.0,
               "gpu/busy": 0.93, "memory/GiB": 1.5, "eta_s": 90.0, "next_s": 30.0}  # fmt: skip
    record = status_record(
        "running", step=3, steps=7, stage="one", numbers=numbers, resume="svp train --resume r"
    )
    (run / CONFIG).write_text("name: micro\n")
    (run / "status.json").write_text(json.dumps(record | changes))


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()


def test_a_run_tells_its_steps_and_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = []
    kept = micro_run.RunFolder.write_json

    def told(folder: Any, name: str, value: Any) -> Path:
        if name == "status.json":
            states.append((value["state"], value["stage"], value["step"]))
        return kept(folder, name, value)

    monkeypatch.setattr(micro_run.RunFolder, "write_json", told)
    micro_run.run(tmp_path / "run", micro_run.micro_recipe())
    steps = [
        *(("running", "one", n) for n in range(4)),
        *(("running", "two", n) for n in (4, 5, 6)),
    ]
    assert states == [*steps, ("running", "two", 7), ("finished", "two", 7)]
    found = RunWatch(tmp_path / "run").look()
    assert (found.state, found.step, found.steps, found.exit_code) == ("finished", 7, 7, 0)
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert found.numbers["loss"] == pytest.approx(last["loss"])
    assert found.numbers["rate/images"] > 0 and found.numbers["eta_s"] == 0


def test_a_folder_of_runs_is_its_newest(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, state="finished", stage=name)
    os.utime(tmp_path / "old", (1, 1))
    told = CliRunner().invoke(main, ["status", str(tmp_path), "--json"])
    assert json.loads(told.stdout)["stage"] == "new", told.output


def test_one_line_says_what_a_person_asks(tmp_path: Path) -> None:
    write(tmp_path)
    said, _, eta = RunWatch(tmp_path).look().summary().partition("  ETA ")
    assert said == (
        "step 3/7  loss 0.5000  gIoU 61.50 %  4.0 images/s  1,200 tokens/s  GPU 93% busy  1.5 GiB"
    )
    minutes, seconds = map(int, eta.split(":"))
    assert 60 < 60 * minutes + seconds <= 90, (
        "what was left when it was written, less the time since"
    )
    result = CliRunner().invoke(main, ["status", str(tmp_path), "--json"])
    assert result.exit_code == 0 and json.loads(result.stdout)["numbers"]["loss"] == 0.5


def test_a_killed_run_reads_lost(tmp_path: Path) -> None:
    """Here its process is gone; of another machine it has not written for long."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    write(tmp_path, pid=gone.pid)
    found = RunWatch(tmp_path).look()
    assert (found.state, found.over, found.exit_code) == ("lost", True, 1)
    assert found.lines()[-1] == "to resume: svp train --resume r"
    for age, state in ((80, "running"), (100, "lost")):  # 30 s from one logged step to the next
        write(tmp_path, host="another", time=ago(age))
        assert RunWatch(tmp_path).look().state == state
    write(tmp_path, time=ago(3600))  # this process, which began later, has not written that
    assert RunWatch(tmp_path).look().state == "lost"


def test_a_watch_ends_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    monkeypatch.setattr(time, "sleep", lambda _: write(tmp_path, state="stopped", step=5))
    result = CliRunner().invoke(main, ["status", str(tmp_path), "--watch"])
    assert result.exit_code == 1
    first, *rest = result.stdout.splitlines()
    assert first.startswith("step 3/7") and rest[-1] == "to resume: svp train --resume r"
    assert rest[1].startswith("step 5/7") and "busy  1.5 GiB  stopped 0:" in rest[1]


def test_what_is_no_status_is_told(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text("name: micro\n")
    with pytest.raises(MissingError, match=r"no status\.json: its first step is not done"):
        RunWatch(tmp_path).look()
    for text in ("[]", "{", '{"state": 1}'):
        (tmp_path / "status.json").write_text(text)
        with pytest.raises(CacheError, match="not a status"):
            RunWatch(tmp_path).look()


def test_the_share_of_a_busy_gpu_is_told_where_the_driver_tells_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "utilization", lambda _: 87)
    assert busy_share(device) == 0.87 and busy_share(torch.device("cpu")) is None
    monkeypatch.setattr(torch.cuda, "utilization", lambda _: 1 / 0)
    assert busy_share(device) is None
    assert Watch(4, 8, 1, torch.device("cpu")).read(0)[1].keys() == {
        "rate/images", "rate/tokens", "rate/padding", "memory/GiB",
    }  # fmt: skip
