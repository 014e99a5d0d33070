"""`svp bench gpu`, walked on the CPU with small models: rows, goals, shares of time, the file."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from svp.pipeline.errors import CacheError
from svp.train.bench import gpu, gpu_parts
from svp.train.bench.gpu import GOALS, Goal, GpuReport
from svp.train.bench.gpu_parts import Row, Rows, Steps
from svp.train.bench.launches import SMALL
from svp.train.bench.presets import Preset


def test_every_goal_has_its_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_parts, "peak_flops", lambda name: 1e12)
    monkeypatch.setattr(gpu_parts, "PHOTOS", 1)
    monkeypatch.setattr(gpu_parts, "REPEATS", 1)
    few = {title: part for title, part in gpu.PARTS.items() if title != "models"}  # a minute
    monkeypatch.setattr(gpu, "PARTS", few)
    told: list[str] = []
    report = gpu.run(replace(SMALL, batch=16), "cpu", 1000, tmp_path / "new", told.append)
    assert GOALS.keys() <= {row.name for row in report.rows}
    assert len(told) == len(report.rows) and not report.stopped and not report.failed
    (path,) = (tmp_path / "new").iterdir()
    assert json.loads(path.read_text()) == json.loads(json.dumps(report.to_json()))
    steps = {row.name: row.value for row in report.rows if row.name.startswith("stage 2")}
    parts = ("copy", "projector", "LLM", "mask decoder", "optimizer")
    whole = sum(steps[f"stage 2, {part}, ms"] for part in parts)
    assert whole == pytest.approx(steps["stage 2, ms per step"])


def test_a_part_that_uses_up_its_share_gives_way(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept: list[list[str]] = []

    def rows() -> Rows:
        for number in range(20):
            yield Row("endless", f"row {number}", number)
            (path,) = tmp_path.iterdir()
            kept.append([row["name"] for row in json.loads(path.read_text())["rows"]])

    def endless(preset: Preset, device: str) -> Steps:
        yield rows

    def quick(preset: Preset, device: str) -> Steps:
        yield lambda: (row for row in [Row("quick", "value", 1.0, 2.0)])

    monkeypatch.setattr(gpu, "PARTS", {"endless": (0.0, endless), "quick": (1.0, quick)})
    report = gpu.run(SMALL, "cpu", 100, tmp_path, lambda line: None)
    assert [row.name for row in report.rows] == ["row 0", "value"]
    assert list(report.stopped) == ["endless"] and report.exit_code == 1
    assert kept == [] and "- STOPPED: endless after 0 s" in report.lines()

    monkeypatch.setattr(gpu, "PARTS", {"endless": (1.0, endless)})
    report = gpu.run(SMALL, "cpu", 100, tmp_path, lambda line: None)
    assert len(report.rows) == 20 and kept[-1] == [f"row {n}" for n in range(20)]


def test_what_fails_is_told_and_costs_the_rows_of_its_step_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def breaks() -> Rows:
        yield Row("one", "before", 1.0)
        raise RuntimeError("CUDA error: out of memory")

    def goes() -> Rows:
        yield Row("one", "after", 2.0)

    def one(preset: Preset, device: str) -> Steps:
        yield breaks
        yield goes

    def cannot_start(preset: Preset, device: str) -> Steps:
        raise ValueError("no model")
        yield goes

    parts = {"one": (1.0, one), "two": (1.0, cannot_start), "three": (1.0, one)}
    monkeypatch.setattr(gpu, "PARTS", parts)
    told: list[str] = []
    report = gpu.run(SMALL, "cpu", 100, tmp_path, told.append)
    assert [row.name for row in report.rows] == ["before", "after"] * 2
    memory = "RuntimeError: CUDA error: out of memory"
    failed = [f"one: {memory}", "two: ValueError: no model", f"three: {memory}"]
    assert list(report.failed) == failed and report.exit_code == 1
    assert [line for line in told if "FAILED" in line] == [f"FAILED: {what}" for what in failed]
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text())["failed"] == failed


def test_parts_for_which_no_time_is_left_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.0, 50.0, 101.0])
    monkeypatch.setattr(gpu.time, "monotonic", lambda: next(clock))

    def quick(preset: Preset, device: str) -> Steps:
        yield lambda: (row for row in [Row("quick", "value", 1.0)])

    monkeypatch.setattr(gpu, "PARTS", {"first": (1.0, quick), "second": (1.0, quick)})
    report = gpu.run(SMALL, "cpu", 100, None, lambda line: None)
    assert len(report.rows) == 1 and report.stopped == {"second": 0.0}


def test_goals() -> None:
    goals = {"rate": Goal(2), "time": Goal(2, most=True), "other": Goal(1)}
    rows = (Row("a", "rate", 2.0), Row("a", "time", 2.1, 1.5), Row("a", "free", 0.0))
    report = GpuReport("NVIDIA H200", "paper", rows, {}, goals)
    assert report.missed == ["time"] and report.exit_code == 1
    assert report.lines() == ["NVIDIA H200: 1 of 3 goals met", "- GOAL MISSED: time <= 2"]
    lines = [gpu.line_of(row, goals) for row in rows]
    assert "predicted 1.5" in lines[1] and "MISSED" in lines[1]
    assert "goal >= 2 met" in lines[0] and "goal" not in lines[2]


def test_a_folder_that_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match="file"):
        gpu.run(SMALL, "cpu", 10, tmp_path / "file", lambda line: None)
