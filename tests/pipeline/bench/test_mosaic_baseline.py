"""The baseline's process: a round whenever it is asked, and a reason when there is none."""

import sys
from pathlib import Path

import pytest

from svp.pipeline.bench.mosaic_baseline import Baseline, Rates, keep_best, open_baseline

ROUNDS = """
import json, sys
assert sys.argv[2].endswith("features.npy")
for number, _ in enumerate(sys.stdin):
    print(json.dumps({"baseline": {"seq": 10.0 - number, "shuffled": 5.0 + number}}), flush=True)
"""
DIES = """
import sys
sys.stdin.readline()
sys.exit("no room for the files")
"""


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A finished environment whose Python is ours."""
    home = tmp_path / "venv"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python").symlink_to(sys.executable)
    (home / "ready").touch()
    return home


def baseline_of(text: str, tmp_path: Path) -> Path:
    path = tmp_path / "baseline.py"
    path.write_text(text)
    return path


def test_rounds_come_when_asked_and_the_best_counts(tmp_path: Path, environment: Path) -> None:
    rates: Rates = {"ours": {"seq": 1.0}}
    with open_baseline(tmp_path, environment, baseline_of(ROUNDS, tmp_path)) as baseline:
        assert isinstance(baseline, Baseline)
        for _ in range(3):
            keep_best(rates, baseline.round())
        assert baseline.failure is None
    assert rates == {"ours": {"seq": 1.0}, "baseline": {"seq": 10.0, "shuffled": 7.0}}


def test_a_baseline_that_dies_gives_its_last_words_and_no_figures(
    tmp_path: Path, environment: Path
) -> None:
    with open_baseline(tmp_path, environment, baseline_of(DIES, tmp_path)) as baseline:
        assert isinstance(baseline, Baseline)
        assert baseline.round() == baseline.round() == {}
        assert baseline.failure == "no room for the files"


def test_an_environment_that_cannot_be_made_is_a_reason(tmp_path: Path) -> None:
    (tmp_path / "venv").write_text("a file in the way")
    with open_baseline(tmp_path, tmp_path / "venv", print) as baseline:
        assert isinstance(baseline, str) and baseline
