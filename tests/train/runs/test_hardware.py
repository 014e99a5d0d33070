"""The tables of docs/hardware.md are what `svp doctor --gpus` prints."""

from pathlib import Path

import pytest

import svp
from svp.train.estimates.gpus import GPUS
from svp.train.runs import hardware
from svp.train.runs.hardware import CACHES, TRAINING, Hardware

PAGE = Path(svp.__file__).parent / "docs" / "hardware.md"


@pytest.mark.slow
def test_the_page_holds_the_tables_that_the_command_prints() -> None:
    made = hardware.hardware()
    assert "\n".join(made.lines()) in PAGE.read_text("utf-8")
    paper = dict(made.training)["svp train --size paper"]
    assert [one.choice.fits for one in paper] == [True] * len(GPUS)


def test_every_command_of_the_tables_is_on_the_page() -> None:
    text = PAGE.read_text("utf-8")
    for command, _, _ in (*TRAINING, *CACHES):
        assert f"| `{command}` |" in text
    for gpu in GPUS.values():
        assert gpu.name.split(" (")[0] in text


def test_a_command_and_its_recipe_are_the_same() -> None:
    """What a row says is what it prices: flags of the command, and fields of the recipe."""
    for command, size, changes in (*TRAINING, *CACHES):
        words = command.split()
        assert words[words.index("--size") + 1] == size
        flags = dict(zip(words[4::2], words[5::2], strict=True))
        assert {f"--{c.split('=')[0].split('.')[-1]}": c.split("=")[1] for c in changes} == flags


def test_one_that_does_not_fit_is_said() -> None:
    from svp.train.estimates.memory import GIB
    from svp.train.estimates.sizing import Choice
    from svp.train.runs.dry_run import Priced

    small = GPUS["3090"]
    no = Priced(small, Choice(1, True, 30 * GIB, small.memory), 9.0)
    yes = Priced(small, Choice(2, True, 20 * GIB, small.memory), 9.0)
    lines = Hardware((("svp train", (no, yes)),), ()).lines()
    assert (
        "| `svp train` | no (30.0 GiB) | 9.0 h (20.0 GiB, micro-batch 2, layers recomputed) |"
        in lines
    )
