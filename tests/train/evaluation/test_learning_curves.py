"""Learning curves: points are those of metrics.jsonl, and what cannot be read is told."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from svp.cli import main
from svp.pipeline.errors import DataError, MissingError
from svp.train.evaluation.page.learning_curves import (
    of_one,
    of_several,
    points,
    read_records,
    write_page,
)


def write(run: Path, steps: int, rate: float = 1.0) -> Path:
    """A run of two stages, scored every tenth step; step 3 was skipped."""
    run.mkdir()
    lines = [
        {"step": k, "loss": rate / k, "ce": rate / k, "lr": 1e-3, "stage": "ab"[k > steps // 2]}
        | ({"held-out/gIoU": float(k)} if k % 10 == 0 else {})
        for k in range(1, steps + 1)
        if k != 3
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_tables_have_the_numbers_of_the_run(tmp_path: Path) -> None:
    charts = {c.title: c for c in of_one(read_records(write(tmp_path / "run", 40)))}
    assert list(charts) == ["Loss", "Held-out scores", "Learning rate"]
    loss = charts["Loss"]
    assert loss.head == ("step", "whole", "text")
    assert [row[0] for row in loss.table] == [str(k) for k in range(1, 41) if k != 3]
    assert loss.table[6] == ("8", "0.125", "0.125")
    assert charts["Held-out scores"].table == [(str(k), str(k)) for k in (10, 20, 30, 40)]
    assert [mark.label for mark in loss.marks] == ["a", "b"]


def test_long_runs_are_means_of_equal_stretches() -> None:
    records = [{"step": k, "loss": float(k)} for k in range(1, 1001)]
    found = points(records, "loss", 100)
    assert len(found) == 100 and found[-1] == (1000, np.mean(range(991, 1001)))
    assert np.mean([y for _, y in found]) == pytest.approx(500.5)
    gaps = [{"step": 1, "loss": float("nan")}, {"step": 2}, {"step": 3, "loss": 2}]
    assert points(gaps, "loss") == [(3, 2.0)]


def test_runs_share_a_chart_of_what_both_have(tmp_path: Path) -> None:
    one, two = (read_records(write(tmp_path / n, 20, r)) for n, r in (("one", 1.0), ("two", 2.0)))
    bare = [{k: v for k, v in record.items() if k != "ce"} for record in two]
    charts = {c.title: c for c in of_several({"one": one, "two": bare})}
    assert list(charts) == ["Loss", "Learning rate", "Held-out gIoU"]
    assert charts["Loss"].table[0] == ("1", "1", "2")


def test_a_page_by_command(tmp_path: Path) -> None:
    run = write(tmp_path / "run", 20)
    refused = CliRunner().invoke(main, ["status", str(run), "--page", str(tmp_path / "page")])
    assert refused.exit_code == 2 and "svp cache browse" in refused.output
    (run / "config.yaml").write_text("x")
    told = CliRunner().invoke(main, ["status", str(run), "--page", str(tmp_path / "page")])
    assert "page: file://" in told.output and "no status.json" in told.output
    assert "Held-out scores" in (tmp_path / "page" / "index.html").read_text()


def test_what_is_cut_or_damaged(tmp_path: Path) -> None:
    run = write(tmp_path / "run", 20)
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text[:-9])
    assert read_records(run)[-1]["step"] == 19
    (run / "metrics.jsonl").write_text(text.replace('"step": 5', '"step": "x"'))
    with pytest.raises(DataError, match=r"run/metrics\.jsonl line 4: not a line of metrics"):
        read_records(run)
    (run / "metrics.jsonl").write_text('{"step": 1')
    with pytest.raises(DataError, match="no step in its"):
        write_page(run, tmp_path / "page")
    with pytest.raises(MissingError):
        read_records(tmp_path)
