"""`make pair`: what it counts, on a stand-in for the package. No timing is compared."""

import sys
from pathlib import Path

import pytest

from support.pair import PARTS, Seconds, Side, measured, other_pins, plain, table

BURN = """
import os, subprocess, sys, time
if "SVP_SIZE" in os.environ or sys.argv[1] == "fails":
    sys.exit("no such thing")
if sys.argv[1] == "child":
    subprocess.run([sys.executable, "-c", "import time\\nwhile time.process_time() < 0.2: pass"])
print(os.getcwd(), sorted(os.sched_getaffinity(0)))
"""


@pytest.fixture
def side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Side:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "__init__.py").touch()
    (tree / "__main__.py").write_text(BURN)
    monkeypatch.setenv("SVP_SIZE", "paper")  # settings of this process are not those of a command
    return Side("base", tree, tmp_path / "base", sys.executable, hint="by --base-python")


def test_the_processes_of_a_command_count(side: Side) -> None:
    took, printed = side.run("child", inside="here")
    assert took.cpu >= 0.2 and took.wall is not None
    assert printed.split()[0] == str(side.folder / "work" / "here")
    assert not side.going


def test_a_command_stays_on_its_core(side: Side) -> None:
    import os

    side.core = max(os.sched_getaffinity(0))
    assert side.run("core")[1].strip().endswith(f"[{side.core}]")


def test_a_command_that_fails_ends_all_and_says_how_to_go_on(side: Side) -> None:
    with pytest.raises(SystemExit, match=r"(?s)base: svp fails.*no such thing.*--base-python"):
        side.run("fails")
    assert side.run("fails", passes=(0, 1))[1] == ""


def test_after_a_stop_nothing_starts(side: Side) -> None:
    side.stop()
    with pytest.raises(SystemExit, match="stopped"):
        side.run("late")


def test_sides_take_turns_or_have_a_core_each(side: Side, tmp_path: Path) -> None:
    other = Side("now", side.tree, tmp_path / "now", sys.executable)
    done: list[tuple[str, int, int | None]] = []

    def do(which: Side, number: int) -> Seconds:
        done.append((which.name, number, which.core))
        return Seconds(float(number), None)

    part = type(PARTS["train"])("title", do, memory=0)
    took = measured(part, (side, other), 2, [])
    assert done == [("base", 0, None), ("now", 0, None), ("now", 1, None), ("base", 1, None)]
    assert [[one.cpu for one in rounds] for rounds in took] == [[0.0, 1.0]] * 2
    done.clear()
    measured(part, (side, other), 2, [4, 5])
    assert sorted(done) == [("base", 0, 4), ("base", 1, 5), ("now", 0, 5), ("now", 1, 4)]


def test_the_table_has_medians_and_how_many_times_the_seconds() -> None:
    took = {
        "superpixels": [
            [Seconds(4.0, None), Seconds(5.0, None), Seconds(9.0, None)],
            [Seconds(2.0, None), Seconds(2.5, None), Seconds(1.0, None)],
        ],
        "train": [[Seconds(1.0, 3.0)], [Seconds(2.0, 4.0)]],
    }
    *_, first, second = table(took, "955986b")
    assert first.split()[-5:] == ["5.00", "2.00", "2.50x", "-", "-"]
    assert second.split()[-5:] == ["1.00", "2.00", "0.50x", "3.0", "4.0"]
    assert plain(took)["train"]["now"] == [{"cpu": 2.0, "wall": 4.0}]


def test_packages_of_other_versions_are_named(tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text("numpy==0.1\nnot-here==1.0\n# a comment\n")
    assert other_pins(tmp_path).startswith("numpy 0.1 -> ")
    assert "not-here" not in other_pins(tmp_path)
