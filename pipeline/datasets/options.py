"""Options with which data sets are read."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict


@dataclass(frozen=True, slots=True)
class Options:
    """Read options: roots of named sets, and the checks that are lifted."""

    root: Path | None = None  # None: here
    images: Path | None = None
    split: str | None = None
    split_by: str | None = None
    allow_google: bool = False
    allow_counts: bool = False
    allow_empty: bool = False
    annotations: bool = False  # read the objects of plain COCO files too
    max_failures: int | None = 0  # bad records that are left out; None: up to half of a file
    limit: int | None = None  # of photographs without annotations only the first by id are read


class Given(TypedDict, total=False):
    """Keyword arguments from which `Options` are made."""

    root: Path | None
    images: Path | None
    split: str | None
    split_by: str | None
    allow_google: bool
    allow_counts: bool
    allow_empty: bool
    max_failures: int | None
