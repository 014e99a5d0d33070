"""The baseline's process: an answer whenever it is asked, and a reason when there is none."""

import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from svp.pipeline.bench import baseline as module
from svp.pipeline.bench.baseline import Baseline, Package, Rates, keep_best, open_baseline

PACKAGE = Package("theirs", "Theirs", "theirs==1.0")
ROUNDS = """
import json, sys
assert sys.argv[1:] == ["features.npy", "2"] and sys.flags.safe_path
for line in sys.stdin:
    number = json.loads(line)["round"]
    print(json.dumps({"baseline": {"seq": 10.0 - number, "shuffled": 5.0 + number}}), flush=True)
"""
DIES = """
import sys
sys.stdin.readline()
sys.exit("no room for the files")
"""
STAYS = """
import sys, time
sys.stdin.readline()
print("{}", flush=True)
time.sleep(600)
"""


@pytest.fixture
def environments(tmp_path: Path) -> Path:
    """A folder with a finished environment whose Python is ours."""
    home = tmp_path / "environments" / "theirs"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python").symlink_to(sys.executable)
    (home / "ready").write_text(f"theirs==1.0\n{sys.version}\n")
    return home.parent


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], list[object]]:
    def write(text: str) -> list[object]:
        path = tmp_path / "baseline.py"
        path.write_text(text)
        return [path, "features.npy", 2]

    return write


def test_rounds_come_when_asked_and_the_best_counts(
    tmp_path: Path, environments: Path, script: Callable[[str], list[object]]
) -> None:
    rates: Rates = {"ours": {"seq": 1.0}}
    with open_baseline(PACKAGE, script(ROUNDS), tmp_path, environments) as baseline:
        assert isinstance(baseline, Baseline)
        for number in range(3):
            keep_best(rates, baseline.ask(round=number))
        assert baseline.failure is None
    assert rates == {"ours": {"seq": 1.0}, "baseline": {"seq": 10.0, "shuffled": 7.0}}


def test_a_baseline_that_dies_gives_its_last_words_and_no_figures(
    tmp_path: Path, environments: Path, script: Callable[[str], list[object]]
) -> None:
    with open_baseline(PACKAGE, script(DIES), tmp_path, environments) as baseline:
        assert isinstance(baseline, Baseline)
        assert baseline.ask() == baseline.ask() == {}
        assert baseline.failure == "no room for the files"


def test_a_baseline_that_does_not_end_is_killed(
    tmp_path: Path,
    environments: Path,
    script: Callable[[str], list[object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "GRACE_S", 0.1)
    with open_baseline(PACKAGE, script(STAYS), tmp_path, environments) as baseline:
        assert isinstance(baseline, Baseline)
        assert baseline.ask() == {} and baseline.failure is None
    assert baseline._process.returncode == -9


def test_an_environment_is_made_once_per_pinned_version(
    tmp_path: Path, environments: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With torch of this environment, and again when another version is pinned."""
    ran: list[list[str]] = []

    def create(home: Path, **options: Any) -> None:
        assert options == {"with_pip": True, "clear": True}
        (home / "lib" / "python3" / "site-packages").mkdir(parents=True)
        if not (home / "bin" / "python").exists():
            (home / "bin").mkdir()
            (home / "bin" / "python").symlink_to(sys.executable)

    with monkeypatch.context() as patch:
        patch.setattr(venv, "create", create)
        patch.setattr(subprocess, "run", lambda command, **_: ran.append(command))
        for requirement in ("theirs==1.0", "theirs==2.0", "theirs==2.0"):
            package = Package("theirs", "Theirs", requirement)
            with open_baseline(package, ["-c", ""], tmp_path, environments) as baseline:
                assert isinstance(baseline, Baseline)
    assert [command[1:4] + command[-1:] for command in ran] == [
        ["-m", "pip", "install", "theirs==2.0"]
    ]
    (borrowed,) = environments.glob("theirs/lib/*/site-packages/*.pth")
    assert (Path(borrowed.read_text().strip()) / "torch" / "__init__.py").samefile(torch.__file__)


def test_an_environment_that_cannot_be_made_is_a_reason(tmp_path: Path) -> None:
    (tmp_path / "environments").write_text("a file in the way")
    with open_baseline(PACKAGE, [], tmp_path, tmp_path / "environments") as baseline:
        assert isinstance(baseline, str) and "Not a directory" in baseline
