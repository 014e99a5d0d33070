"""Every file of a cache damaged in turn: named by `verify`, restored by repair and resume."""

import re
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
    if parts[-2:-1] == ["manifest"]:
        return [int(parts[-1].removesuffix(".json"))]
    return [int(parts[4])] if "c" in parts and parts[2] not in ("k", "status") else []


def vital(name: str) -> bool:
    """Whether nothing can be judged without the file: the plan and the image list."""
    return name == "plan.json" or (name.startswith("images/") and "/c/" in name)


def refused(cache: Any, name: str) -> None:
    for call in (verify, repair, CacheReader):
        with pytest.raises((CacheError, MissingError), match=re.escape(name)):
            call(cache.path)


def test_a_flipped_bit_is_named_and_restored(
    cache: Any, tree_of: Tree, record_property: Count
) -> None:
    files = tree_of(cache.path)
    for number, (name, data) in enumerate(files.items()):
        path = cache.path / name
        place, bit = (number * 7919) % len(data), number % 8
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
        if vital(name):  # refused, and said so
            refused(cache, name)
            path.write_bytes(data)
            continue
        named = {problem for problem, _ in verify(cache.path, full=True).problems}
        # COMPLETE holds the digest of the index: damage to either is reported as the index.
        assert named == {name.replace("COMPLETE", "index.json")}
        assert restored(cache) == shards_of(name)
        assert tree_of(cache.path) == files, name
    record_property("tried", len(files))


def test_a_lost_file_is_named_and_restored(
    cache: Any, tree_of: Tree, record_property: Count
) -> None:
    files = tree_of(cache.path)
    for name, data in files.items():
        (cache.path / name).unlink()
        if vital(name):
            refused(cache, name)
            (cache.path / name).write_bytes(data)
            continue
        report = verify(cache.path, full=True)
        if name.endswith("COMPLETE"):  # not damage: the cache counts as under construction
            assert report.ok and not report.complete
        else:
            assert {problem for problem, _ in report.problems} == {name}
        assert restored(cache) == shards_of(name)
        assert tree_of(cache.path) == files, name
    record_property("tried", len(files))
