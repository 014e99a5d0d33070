"""Small caches made on the spot: 2x2 patches of 8 channels, shards of 4 images."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

import pytest

from support.cache_model import fast_folder
from support.small_cache import Made, make_plan, make_rows
from svp.pipeline.cache import Plan
from svp.pipeline.records import ImageRow, Quarantined


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Ten images in three shards, row 2 quarantined; nothing written yet."""
    plan = make_plan()
    return Made(tmp_path / "cache", plan, make_rows(plan, bad=[2]))


@pytest.fixture
def cache(made: Made) -> Made:
    """The same, committed and complete."""
    made.write()
    made.finish()
    return made


@pytest.fixture
def planner() -> Callable[..., Plan]:
    return make_plan


@pytest.fixture
def rows_of() -> Callable[..., list[ImageRow | Quarantined]]:
    return make_rows


@pytest.fixture
def maker(tmp_path: Path) -> Callable[..., Made]:
    """`maker(images=..., bad=..., **features)`: another cache, not yet written."""

    serial = count()

    def make(images: int = 10, bad: Sequence[int] = (), **features: object) -> Made:
        plan = make_plan(images, **features)
        return Made(tmp_path / f"made{next(serial)}", plan, make_rows(plan, bad))

    return make


def tree(path: Path) -> dict[str, bytes]:
    """Every file of a cache by relative name, logs left out."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.relative_to(path).parts[0] != "logs"
    }


@pytest.fixture
def tree_of() -> Callable[[Path], dict[str, bytes]]:
    return tree


@pytest.fixture
def fast_path() -> Iterator[Path]:
    """A folder in memory where there is one: what is written thousands of times waits for no disk."""
    with tempfile.TemporaryDirectory(prefix="svp-", dir=fast_folder()) as folder:
        yield Path(folder)
