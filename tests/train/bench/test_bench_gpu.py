"""`svp bench gpu`, walked on the CPU with small models: rows, goals, shares of time, the file."""

import json
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest

from svp.pipeline.errors import CacheError
from svp.train.bench import gpu
from svp.train.bench.gpu import GOALS, Goal, GpuReport, Row
from svp.train.bench.launches import SMALL
from svp.train.bench.presets import Preset


def test_every_goal_has_its_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "peak_flops", lambda name: 1e12)
    monkeypatch.setattr(gpu, "PHOTOS", 1)
    monkeypatch.setattr(gpu, "REPEATS", 1)
    few = {title: part for title, part in gpu.PARTS.items() if title != "models"}  # a minute
    monkeypatch.setattr(gpu, "PARTS", few)
    told: list[str] = []
    report = gpu.run(replace(SMALL, batch=16), "cpu", 1000, tmp_path / "new", told.append)
    assert GOALS.keys() <= {row.name for row in report.rows}
    assert len(told) == len(report.rows) and not report.stopped
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

    def endless(preset: Preset, device: str) -> Generator[Row, None, None]:
        for number in range(20):
            yield Row("endless", f"row {number}", number)
            (path,) = tmp_path.iterdir()
            kept.append([row["name"] for row in json.loads(path.read_text())["rows"]])

    def quick(preset: Preset, device: str) -> Generator[Row, None, None]:
        yield Row("quick", "value", 1.0, 2.0)

    monkeypatch.setattr(gpu, "PARTS", {"endless": (0.0, endless), "quick": (1.0, quick)})
    report = gpu.run(SMALL, "cpu", 100, tmp_path, lambda line: None)
    assert [row.name for row in report.rows] == ["row 0", "value"]
    assert list(report.stopped) == ["endless"] and report.exit_code == 1
    assert kept == [] and "- STOPPED: endless after 0 s" in report.lines()

    monkeypatch.setattr(gpu, "PARTS", {"endless": (1.0, endless)})
    report = gpu.run(SMALL, "cpu", 100, tmp_path, lambda line: None)
    assert len(report.rows) == 20 and kept[-1] == [f"row {n}" for n in range(20)]


def test_goals() -> None:
    goals = {"rate": Goal(2), "time": Goal(2, most=True), "other": Goal(1)}
    rows = (Row("a", "rate", 2.0), Row("a", "time", 2.1, 1.5), Row("a", "free", 0.0))
    report = GpuReport("NVIDIA H200", "paper", rows, {}, goals)
    assert report.missed == ["time"] and report.exit_code == 1
    assert report.lines() == ["NVIDIA H200: 1 of 3 goals met", "- GOAL MISSED: time <= 2"]
    assert "predicted 1.5" in rows[1].line(goals) and "MISSED" in rows[1].line(goals)
    assert "goal >= 2 met" in rows[0].line(goals) and "goal" not in rows[2].line(goals)


def test_a_folder_that_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match="file"):
        gpu.run(SMALL, "cpu", 10, tmp_path / "file", lambda line: None)
