"""The online half through the command line: scenes to cache to two stages to evaluation."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from svp.cli import main
from svp.train import cli_defaults
from svp.train.runs import quickstart


def svp(*arguments: str) -> str:
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quickstart on few scenes, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    scenes = {"train": 4, "val": 1, "testA": 3}
    monkeypatch.setattr(cli_defaults, "SPLITS", scenes)
    monkeypatch.setattr(quickstart, "SPLITS", scenes)


@pytest.mark.usefixtures("small")
@pytest.mark.timeout(900)
def test_from_nothing_to_giou_and_back() -> None:
    """`svp quickstart` alone trains and evaluates; the figures come again from the file."""
    short = ("stages.0.steps=4", "stages.0.warmup=1", "stages.1.steps=3", "stages.1.warmup=1")
    sets = [word for assignment in (*short, "run.preview=0") for word in ("--set", assignment)]
    first = json.loads(svp("quickstart", "--json", *sets))
    assert first["train"]["steps"] == 7
    (results,) = Path("runs").glob("*/eval/testA-full-1.jsonl")
    again = json.loads(svp("eval", "--from-results", str(results), "--json"))
    assert again["splits"] == first["eval"]["splits"]
    assert first["eval"]["splits"][0]["size"]["images"] == 3

    rerun = json.loads(svp("quickstart", "--json", *sets))
    assert rerun["eval"]["splits"] == first["eval"]["splits"]
    assert len(list(Path("runs").iterdir())) == 1, "a finished run is not done again"

    photo = next(Path("data/quickstart/images").glob("testA_*.png"))
    said = json.loads(svp("predict", str(photo), "red disc", "left disc", "--json"))
    assert [p["expression"] for p in said["predictions"]] == ["red disc", "left disc"]
