"""The registry is complete and points at tests that exist; the page says what was run."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from support.reliability.registry import Row, rows
from support.reliability.table import PAGE, Recorder, Tally, page, read_page

ROOT = Path(__file__).parents[2]
NUMBERS = {*range(1, 18), *range(20, 40)}  # T18 and T19 are free


@cache
def functions(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def test_every_number_of_the_specification_has_a_row() -> None:
    numbers = [row.number for row in rows()]
    assert len(numbers) == len(set(numbers))
    assert {int(n[1:]) for n in numbers if n[0] == "T"} == NUMBERS


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.number)
def test_the_tests_of_a_row_exist(row: Row) -> None:
    assert row.tests, f"{row.number} has no test"
    for test in row.tests:
        file, _, name = test.partition("::")
        assert name in functions(file), f"{row.number}: {test} does not exist"
        assert "|" not in row.fault + row.survives, "would break the table"


@pytest.mark.slow
def test_pytest_collects_every_one() -> None:
    names = sorted({test for row in rows() for test in row.tests})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    found = {line.split("[")[0] for line in done.stdout.splitlines() if "::" in line}
    assert found == set(names)


def test_the_page_in_the_repository_is_of_these_rows_and_lost_nothing() -> None:
    text = PAGE.read_text("utf-8")
    assert re.findall(r"^\| ([TCRDJ]\d+) \|", text, re.MULTILINE) == [row.number for row in rows()]
    found = read_page(text)
    bad = [n for n, tally in found.items() if tally.lost or tally.tried != tally.survived]
    assert bad == [] and sum(tally.tried for tally in found.values()) > 300
    for row in rows():
        assert f"| {row.number} | {row.fault} | {row.survives} |" in text, "make reliability"


def test_a_lost_fault_and_one_not_run_are_said() -> None:
    row = Row("T6", "a fault", "all", ("a::test",), note="half covered")
    other = Row("T7", "another", "all", ("a::test",))
    tally = Tally(5, 4, 1, ["no root"])
    text = page([row, other], {"T6": tally}, slow=False)
    assert "| T6 | a fault | all | 5 | 4 | 1 |" in text
    assert "| T7 | another | all | not run | |  |" in text
    assert "half covered" in text
    assert read_page(text) == {"T6": tally}


def test_counts_are_of_injected_faults(pytester_report: pytest.TestReport) -> None:
    recorder = Recorder()
    recorder.pytest_runtest_logreport(pytester_report)
    assert recorder.found == {"f.py::test_x": Tally(7, 7, 0)}


@pytest.fixture
def pytester_report() -> pytest.TestReport:
    return pytest.TestReport(
        nodeid="f.py::test_x[case]",
        location=("f.py", 1, "test_x"),
        keywords={},
        outcome="passed",
        longrepr=None,
        when="call",
        user_properties=[("tried", 7)],
    )
