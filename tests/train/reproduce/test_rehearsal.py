"""`svp reproduce --rehearse`: what is said on the command line runs on stand-ins, and only there."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from svp.cli import main
from svp.pipeline.weights.rehearsal import VARIABLE
from svp.train.rehearse.run import SMALL
from svp.train.reproduce import dry_run
from svp.train.reproduce.request import ReproduceRequest


class Done:
    """A report that says nothing."""

    exit_code = 0

    def lines(self) -> list[str]:
        return []


def test_the_stand_ins_are_named_and_the_place_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[ReproduceRequest, str, str]] = []

    def ran(request: ReproduceRequest, *, plan_only: bool) -> Any:
        seen.append((request, os.getcwd(), os.environ.get(VARIABLE, "")))
        return Done()

    def made(folder: Path, *, full: bool) -> dict[str, str]:
        return {VARIABLE: str(folder / "dial.yaml")}

    monkeypatch.setattr(dry_run, "reproduce_or_plan", ran)
    monkeypatch.setattr(dry_run, "stand_ins", made)
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    words = ["reproduce", "tableC", "--size", "paper", "--rehearse", "--rows", "all"]
    assert CliRunner().invoke(main, words).exit_code == 0
    (request, folder, settings) = seen[0]
    assert folder == str(tmp_path / "rehearsal") and settings == str(
        tmp_path / "rehearsal/dial.yaml"
    )
    assert (request.root, request.init, request.published) == (
        Path("refer_data"), "GLaMM-GranD-Pretrained", "GLaMM-RefSeg",
    )  # fmt: skip
    assert (request.seeds, request.device, request.rows, request.table) == (1, "cpu", (), "tableC")
    assert os.getcwd() == str(tmp_path) and VARIABLE not in os.environ
    assert CliRunner().invoke(main, [*words[:5], "--seeds", "2"]).exit_code == 0
    assert seen[1][0].seeds == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [(["--size", "tiny"], "--size paper"), (["--size", "paper", "--root", "."], "--root")],
)
def test_what_does_not_go_with_it(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = CliRunner().invoke(main, ["reproduce", "table1", "--rehearse", *words])
    assert refused.exit_code == 2 and told in refused.output
    assert not list(tmp_path.iterdir())


def test_a_plan_starts_with_what_a_shell_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry_run, "stand_ins", made_small)
    monkeypatch.chdir(tmp_path)
    words = ["reproduce", "table1", "--size", "paper", "--rehearse", "--row", "SVP", "--plan"]
    printed = CliRunner().invoke(main, words).stdout
    assert printed.startswith(
        f"cd {tmp_path}/rehearsal\nexport {VARIABLE}={tmp_path}/rehearsal/dial.yaml\n"
        "export HF_HUB_OFFLINE=1\n# table1 at the paper's size"
    )
    assert "--init GLaMM-GranD-Pretrained" in printed


def made_small(folder: Path, *, full: bool) -> dict[str, str]:
    """Settings alone: a plan reads no weights."""
    path = folder / "dial.yaml"
    path.write_text(yaml.safe_dump({"folder": str(folder), **SMALL}))
    return {VARIABLE: str(path), "HOME": str(folder), "HF_HUB_OFFLINE": "1"}
