"""`svp reproduce --rehearse`: what is said on the command line runs on stand-ins, and only there."""

import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from svp.cli import main
from svp.pipeline.rehearsal import VARIABLE
from svp.train.reproduce import rehearsal
from svp.train.reproduce.ask import Ask


class Done:
    """A report that says nothing."""

    exit_code = 0

    def lines(self) -> list[str]:
        return []


def test_the_stand_ins_are_named_and_the_place_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Ask, str, str]] = []

    def ran(ask: Ask, *, plan_only: bool) -> Any:
        seen.append((ask, os.getcwd(), os.environ.get(VARIABLE, "")))
        return Done()

    def made(folder: Path, *, full: bool, say: object) -> dict[str, str]:
        return {VARIABLE: str(folder / "dial.yaml")}

    monkeypatch.setattr(rehearsal, "reproduce_or_plan", ran)
    monkeypatch.setattr(rehearsal, "stand_ins", made)
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    words = ["reproduce", "tableC", "--size", "paper", "--rehearse", "--rows", "all"]
    assert CliRunner().invoke(main, words).exit_code == 0
    (ask, folder, dial) = seen[0]
    assert folder == str(tmp_path / "rehearsal") and dial == str(tmp_path / "rehearsal/dial.yaml")
    assert (ask.root, ask.init, ask.published) == (
        Path("refer_data"), "GLaMM-GranD-Pretrained", "GLaMM-RefSeg",
    )  # fmt: skip
    assert (ask.seeds, ask.device, ask.rows, ask.table) == (1, "cpu", (), "tableC")
    assert os.getcwd() == str(tmp_path) and VARIABLE not in os.environ
    assert CliRunner().invoke(main, [*words[:5], "--seeds", "2"]).exit_code == 0
    assert seen[1][0].seeds == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [(["--size", "tiny"], "--size paper"), (["--size", "paper", "--root", "R"], "--root")],
)
def test_what_does_not_go_with_it(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = CliRunner().invoke(main, ["reproduce", "table1", "--rehearse", *words])
    assert refused.exit_code == 2 and told in refused.output
    assert not list(tmp_path.iterdir())
