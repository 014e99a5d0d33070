"""Default values shown by the command line; imports nothing."""

import importlib.resources
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

DATA: Final = Path("data/quickstart")
SPLITS: Final = {"train": 1200, "val": 100, "testA": 300}
SEED: Final = 10  # the shipped weights were trained on other seeds
HELD_OUT: Final = "testA"
WORLD2_DATA: Final = Path("data/world2-tables")
WORLD2_SPLITS: Final = {"train": 2000, "testA": 300}


def cache_of(split: str) -> Path:
    """Default cache folder of a split of the default scenes."""
    return Path("caches") / f"quickstart-{split}"


TINY: Final = "tiny"  # the model of this package, by name


def shipped_model(asked: T) -> T | Path:
    """The folder of the model of this package where `asked` is its name and no path; else `asked`."""
    if asked != Path(TINY) or Path(TINY).exists():
        return asked
    return Path(str(importlib.resources.files("svp"))) / "workflows" / "tiny" / "quickstart"


TABLE_NAMES: Final = (
    "table1", "table2", "table3", "table4", "table5", "table6", "table7", "tableC", "fig5", "stored",
    "budget",
)  # fmt: skip
WORLD2: Final = "world2"
TABLE_SIZES: Final = ("tiny", WORLD2, "paper")
ALL: Final = "all"  # every table of the paper, in a plan
GPU_NAMES: Final = ("3090", "4090", "a100", "h100", "h200")
