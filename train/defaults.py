"""The data of the embedded default: which scenes `svp train` and `svp eval` take when none is named."""

from pathlib import Path
from typing import Final

DATA: Final = Path("data/quickstart")
SPLITS: Final = {"train": 1200, "val": 100, "testA": 300}
SEED: Final = 10  # the shipped weights were trained on other seeds
HELD_OUT: Final = "testA"


def cache_of(split: str) -> Path:
    """Where the cache of a split of the default scenes lies."""
    return Path("caches") / f"quickstart-{split}"
