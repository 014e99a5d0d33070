"""docs/reliability.md, made by running the rows: fault -> tried -> survived -> lost.

    PYTHONPATH=tests python -m support.reliability.table           every row, the page written anew
    ... --row T6                                                   one row alone, nothing written
    ... --row T6 --slow                                            with its slow trials
    ... --row T6 --update                                          its line of the page written anew

`tried` counts injected faults: a test that injects many says how many (`record_property("tried",
n)`), any other case counts as one. A row is lost where one of its tests fails.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import click
import pytest

from support import ROOT
from support.reliability.registry import Row, rows

PAGE = ROOT / "docs" / "reliability.md"
HEAD = """# What svp survives

Made by `make reliability`, which runs every row; do not edit. One row alone:
`make reliability ROW=T6`. T numbers are those of the reliability specification, C numbers those
of the cache's fault list; T18 and T19 do not exist. *Tried* counts injected faults, *survived*
those after which everything in the third column held, *lost* the others. {slow}

| row | fault | what must survive | tried | survived | lost |
|---|---|---|---:|---:|---:|
"""
QUICK = "Trials marked slow are not in these counts."
FULL = "Slow trials are in these counts."


LINE = re.compile(r"^\| ([TC]\d+) \|.*\| (\d+) \| (\d+) \| (\d+) \|$", re.MULTILINE)
SKIP = re.compile(r"^- \*\*([TC]\d+)\*\*: not run here: (.*)\.$", re.MULTILINE)


@dataclass
class Tally:
    """What became of a row's tests: faults injected, survived, lost, and why cases did not run."""

    tried: int = 0
    survived: int = 0
    lost: int = 0
    skipped: list[str] = field(default_factory=list)

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.tried + other.tried,
            self.survived + other.survived,
            self.lost + other.lost,
            [*self.skipped, *other.skipped],
        )


class Recorder:
    """A pytest plugin that keeps what became of each test function."""

    def __init__(self) -> None:
        self.found: dict[str, Tally] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a case once: at its call, or where its setup skipped or failed."""
        name = report.nodeid.split("[")[0]
        tally = self.found.setdefault(name, Tally())
        if report.skipped:
            where = report.longrepr
            tally.skipped.append(str(where[2]) if isinstance(where, tuple) else "skipped")
        elif report.when == "call" or report.failed:
            count = _count(report.user_properties)
            tally.tried += count
            if report.passed:
                tally.survived += count
            else:
                tally.lost += count


def run(chosen: Sequence[Row], slow: bool) -> dict[str, Tally]:
    """Run the tests of rows; what became of each row in which one ran, by its number."""
    os.chdir(ROOT)
    marks = "not gpu" if slow else "not gpu and not slow"
    recorder = Recorder()
    names = sorted({test for row in chosen for test in row.tests})
    pytest.main(["-q", "-m", marks, "-p", "no:cacheprovider", *names], plugins=[recorder])
    tallies = {
        row.number: sum((recorder.found.get(test, Tally()) for test in row.tests), Tally())
        for row in chosen
    }
    return {number: tally for number, tally in tallies.items() if tally.tried or tally.skipped}


def page(chosen: Iterable[Row], found: dict[str, Tally], slow: bool) -> str:
    """The Markdown page; a row that is not in `found` was not run."""
    chosen = list(chosen)
    text = HEAD.format(slow=FULL if slow else QUICK)
    text += "".join(_line(row, found.get(row.number)) for row in chosen)
    notes = [f"- **{row.number}**: {row.note}.\n" for row in chosen if row.note]
    skips = [
        f"- **{row.number}**: not run here: {reason}.\n"
        for row in chosen
        if row.number in found
        for reason in sorted(set(found[row.number].skipped))
    ]
    if notes:
        text += "\n## Notes\n\n" + "".join(notes)
    if skips:
        text += "\n## Cases the machine that made this page could not run\n\n" + "".join(skips)
    return text


def read_page(text: str) -> dict[str, Tally]:
    """The tallies of a page."""
    found = {n: Tally(int(t), int(s), int(lost)) for n, t, s, lost in LINE.findall(text)}
    for number, reason in SKIP.findall(text):
        found[number].skipped.append(reason)
    return found


def _line(row: Row, tally: Tally | None) -> str:
    numbers = f"{tally.tried} | {tally.survived} | {tally.lost}" if tally else "not run | | "
    return f"| {row.number} | {row.fault} | {row.survives} | {numbers} |\n"


def _count(properties: Iterable[tuple[str, Any]]) -> int:
    return next((int(value) for name, value in properties if name == "tried"), 1)


@click.command()
@click.option("--row", "numbers", multiple=True, help="Only this row; nothing is written.")
@click.option("--slow", is_flag=True, help="Also the trials that take minutes.")
@click.option("--update", is_flag=True, help="With --row: write its line of the page anew.")
def main(numbers: Sequence[str], slow: bool, update: bool) -> None:
    """Run the rows and write docs/reliability.md; exit code 1 if a fault was lost."""
    every = list(rows())
    if unknown := set(numbers) - {row.number for row in every}:
        raise click.UsageError(f"no row {sorted(unknown)}: {' '.join(row.number for row in every)}")
    chosen = [row for row in every if not numbers or row.number in numbers]
    found = run(chosen, slow)
    if update and PAGE.exists():
        before = read_page(PAGE.read_text("utf-8"))
        PAGE.write_text(page(every, before | found, slow), encoding="utf-8")
    elif update or not numbers:
        PAGE.write_text(page(every, found, slow), encoding="utf-8")
    for row in chosen:
        click.echo(_line(row, found.get(row.number)).strip())
        for test in row.tests if numbers else ():
            click.echo(f"  {test}")
    # A row in which nothing ran survived nothing.
    bad = [row.number for row in chosen if row.number not in found or found[row.number].lost]
    if bad:
        click.echo(f"lost or not run: {' '.join(bad)}", err=True)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
