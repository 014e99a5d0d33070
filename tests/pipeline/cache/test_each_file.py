"""Every file of a cache damaged in turn: named by `verify`, restored by repair and resume."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from svp.pipeline.cache import CacheReader, repair, verify
from svp.pipeline.errors import CacheError, MissingError

Tree = Callable[[Path], dict[str, bytes]]
Count = Callable[[str, object], None]


def restored(cache: Any) -> list[int]:
    """Repair and the same command again; the shards that were made anew."""
    repair(cache.path)
    resumed: list[int] = cache.resume()
    return resumed


def shards_of(name: str) -> list[int]:
    """The shard a file belongs to, none for the files of all."""
    parts = name.split("/")
    if parts[0] == "manifest":
        return [int(parts[1].removesuffix(".json"))]
    whole = parts[0] in ("id", "hw", "k", "status") or parts[-1] == "zarr.json"
    return [] if len(parts) < 3 or whole else [int(parts[2])]


def test_a_flipped_bit_is_named_and_restored(
    cache: Any, tree_of: Tree, record_property: Count
) -> None:
    files = tree_of(cache.path)
    for number, (name, data) in enumerate(files.items()):
        path = cache.path / name
        place, bit = (number * 7919) % len(data), number % 8
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
        if name == "plan.json":  # nothing can be judged without it: refused, and said so
            for call in (verify, repair, CacheReader):
                with pytest.raises((CacheError, MissingError), match=r"plan\.json"):
                    call(cache.path)
            path.write_bytes(data)
            continue
        named = {problem for problem, _ in verify(cache.path, full=True).problems}
        # COMPLETE holds the digest of the index: damage to either is reported as the index.
        assert named == {"index.json" if name == "COMPLETE" else name}
        assert restored(cache) == shards_of(name)
        assert tree_of(cache.path) == files, name
    record_property("tried", len(files))


def test_a_lost_file_is_named_and_restored(
    cache: Any, tree_of: Tree, record_property: Count
) -> None:
    files = tree_of(cache.path)
    for name in files:
        if name == "plan.json":
            continue
        (cache.path / name).unlink()
        report = verify(cache.path, full=True)
        if name == "COMPLETE":  # not damage: the cache counts as under construction
            assert report.ok and not report.complete
        else:
            assert {problem for problem, _ in report.problems} == {name}
        assert restored(cache) == shards_of(name)
        assert tree_of(cache.path) == files, name
    record_property("tried", len(files) - 1)
