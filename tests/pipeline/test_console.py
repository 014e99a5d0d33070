"""Progress of a command: plain lines on stderr, once, and silence where the package is a library."""

import io
import json
import logging
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from rich.console import Console
from rich.progress import Progress

from svp.pipeline.commands.console import STDOUT, Root, _logged, as_json, report
from svp.pipeline.commands.path_types import FOLDER, NEW_FILE, NEW_FOLDER, NEW_PLACE, PLACE
from svp.pipeline.display import Report
from svp.pipeline.store import open_store

LINE = "run folder: [red]runs/" + "long" * 40  # neither folded nor taken for markup


@click.group(cls=Root)
def group() -> None: ...


@group.command()
@as_json
def command(as_json: bool) -> None:
    logging.getLogger("svp.train.runs.train").info(LINE)
    logging.getLogger("svp.train.runs.train").debug("not for users")
    logging.getLogger("another.package").info("not ours")
    report(Done(), as_json)


@dataclass(frozen=True, slots=True)
class Done(Report):
    folder: Path = Path("runs/done")

    def lines(self) -> list[str]:
        return ["done"]


class Missed(Done):
    @property
    def exit_code(self) -> int:
        return 1


def test_a_report_is_its_fields_and_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with click.Context(command, obj=None) as context:
        context.meta[STDOUT] = sys.stdout
        report(Done(), True)
        with pytest.raises(SystemExit, match="1"):
            report(Missed(), True)
    first, second = capsys.readouterr().out.split("}\n{")
    assert json.loads(first + "}") == {"folder": "runs/done", "exit_code": 0}
    assert json.loads("{" + second) == {"folder": "runs/done", "exit_code": 1}


def invoke(*words: str, rank: str = "0") -> Result:
    return CliRunner().invoke(group, ["command", *words], env={"RANK": rank})


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_progress_is_on_stderr_alone_and_once(
    words: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    before = logging.getLogger("svp").__dict__.copy()
    found = invoke(*words)
    assert found.stderr == f"{LINE}\n"
    assert LINE not in found.stdout and "done" in found.stdout
    assert not caplog.messages, "a library's handler of the root logger does not repeat the lines"
    after = logging.getLogger("svp").__dict__
    assert all(after[name] == before[name] for name in ("level", "handlers", "propagate"))


def test_the_other_processes_are_silent() -> None:
    found = invoke(rank="1")
    assert (found.stderr, found.stdout) == ("", "done\n")


def test_lines_stand_above_a_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=500)
    with _logged(), Progress(console=console):
        logging.getLogger("svp").info("a line")
    assert "a line\n" in shown.getvalue(), "printed by the bar's console, which makes room for it"
    assert not capsys.readouterr().err


def test_a_library_prints_nothing_by_itself() -> None:
    code = (
        "import logging, svp.pipeline.precompute.progress as p\n"
        "with p.Progress(p.Tally(3)): logging.getLogger('svp.train').info('progress')"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (found.stdout, found.stderr) == ("", "")


@group.command("place")
@click.option("--from", "source", type=PLACE)
@click.option("--to", type=NEW_PLACE, default=Path("runs"))
def place(source: object, to: object) -> None:
    click.echo(f"{source!r} {to!r}")


def test_a_place_is_a_path_or_the_store_of_an_address(tmp_path: Path) -> None:
    def ask(*words: str) -> str:
        return CliRunner().invoke(group, ["place", *words]).output.strip()

    assert ask("--from", "a/b") == f"{Path('a/b')!r} {Path('runs')!r}"
    store = open_store("s3://bucket/runs")
    assert ask("--from", "s3://bucket/runs/", "--to", "s3://bucket/runs") == f"{store!r} {store!r}"
    assert ask("--from", f"file://{tmp_path}").startswith(repr(tmp_path))
    assert "is no store: give a folder, s3://bucket/prefix" in ask("--to", "ftp://host/runs")
    assert "credentials, endpoint and region are read" in ask("--to", "s3://key:secret@bucket/runs")
    (tmp_path / "file").touch()
    assert "cannot be written" in ask("--to", str(tmp_path / "file"))


@group.command("folder")
@click.option("--in", "source", type=FOLDER)
@click.option("--to", type=NEW_FOLDER)
@click.option("--file", type=NEW_FILE)
def folder(**given: object) -> None: ...


@pytest.mark.parametrize("option", ["--in", "--to", "--file"])
def test_an_address_is_never_taken_for_a_path(option: str) -> None:
    told = CliRunner().invoke(group, ["folder", option, "s3://bucket/out"]).output
    assert told.startswith(f"svp: {option} s3:/bucket/out: an address") and "give a path" in told
