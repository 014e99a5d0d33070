"""`svp status RUNS`: the newest run, and all of them with their scores on held-out images."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from svp.cli import main
from svp.train.trainer.run_list import list_runs
from svp.train.trainer.run_status import status_record


def write_run(
    runs: Path, name: str, age: int, scores: list[float], state: str = "finished"
) -> None:
    """A run with a checkpoint per score; `age` orders the runs, the oldest first."""
    run = runs / name
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("name: tiny\n")
    told = status_record(state, step=8, steps=10, stage="align", numbers={}, resume="svp train")
    (run / "status.json").write_text(json.dumps(told))
    for step, score in enumerate(scores, 1):
        folder = run / f"checkpoints/step-{step:08d}"
        folder.mkdir()
        known = {"scores": {"gIoU": score, "cIoU": score / 2, "P@0.5": 1.0}}
        (folder / "state.json").write_text(json.dumps(known))
    os.utime(run, (age, age))


def test_runs_are_listed_by_their_held_out_score(tmp_path: Path) -> None:
    write_run(tmp_path, "tiny-1", 1, [0.2, 0.75])
    write_run(tmp_path, "tiny-2", 2, [0.9, 0.5], state="stopped")
    write_run(tmp_path, "tiny-3", 3, [])
    (tmp_path / "eval").mkdir()  # no run
    found = list_runs(tmp_path)
    assert [(r.name, r.state, r.scores.get("gIoU")) for r in found] == [
        ("tiny-1", "finished", 0.75),
        ("tiny-2", "stopped", 0.5),
        ("tiny-3", "finished", None),
    ]
    said = CliRunner().invoke(main, ["status", str(tmp_path)])
    lines = said.output.splitlines()
    assert lines[0].startswith(f"{tmp_path}/tiny-3: finished"), "the newest first, as before"
    assert "3 runs, by gIoU on held-out images" in lines[-5]
    assert lines[-3].split() == ["tiny-1", "finished", "8/10", "75.00", "37.50"]
    assert lines[-1].split() == ["tiny-3", "finished", "8/10", "-", "-"]
    shown = json.loads(CliRunner().invoke(main, ["status", str(tmp_path), "--json"]).output)
    assert [run["name"] for run in shown["runs"]] == ["tiny-1", "tiny-2", "tiny-3"]
    assert shown["state"] == "finished" and shown["step"] == 8


def test_one_run_alone_is_no_list(tmp_path: Path) -> None:
    write_run(tmp_path, "tiny-1", 1, [0.2])
    said = CliRunner().invoke(main, ["status", str(tmp_path)])
    assert said.exit_code == 0 and "held-out" not in said.output


@pytest.mark.parametrize("state", ["", "[]", '{"scores": []}', '{"scores": {"gIoU": "high"}}'])
def test_a_damaged_checkpoint_has_no_score(state: str, tmp_path: Path) -> None:
    write_run(tmp_path, "tiny-1", 1, [0.5])
    (tmp_path / "tiny-1/checkpoints/step-00000001/state.json").write_text(state)
    assert list_runs(tmp_path)[0].scores == {}
