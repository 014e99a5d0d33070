"""Default values shown by the command line; imports nothing."""

from pathlib import Path
from typing import Final

DATA: Final = Path("data/quickstart")
SPLITS: Final = {"train": 1200, "val": 100, "testA": 300}
SEED: Final = 10  # the shipped weights were trained on other seeds
HELD_OUT: Final = "testA"


def cache_of(split: str) -> Path:
    """Default cache folder of a split of the default scenes."""
    return Path("caches") / f"quickstart-{split}"


TABLE_NAMES: Final = (
    "table1", "table2", "table3", "table4", "table5", "table6", "table7", "tableC", "fig5", "stored",
)  # fmt: skip
TABLE_SIZES: Final = ("tiny", "paper")
ALL: Final = "all"  # every table of the paper, in a plan
GPU_NAMES: Final = ("3090", "4090", "a100", "h100", "h200")
