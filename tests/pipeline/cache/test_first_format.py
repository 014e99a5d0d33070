"""Caches of the first format: converted to the same bytes, damage left out and named.

`data/schema1.zip` was written by svp 0.1 (commit 92ffb2e) from the rows of `conftest.make_rows`.
"""

import dataclasses
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svp.pipeline.cache import CacheReader, verify
from svp.pipeline.cache.first_format import convert
from svp.pipeline.cache.plan import Plan
from svp.pipeline.errors import CacheError, ConfigError, MissingError
from svp.pipeline.records import Quarantined

OLD_ID = "60b8f928bb683ba8f2efd48ce5818317e1550465d4a52f570f1b0e7677220310"
Tree = Callable[[Path], dict[str, bytes]]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    folder = tmp_path / "old"
    with zipfile.ZipFile(Path(__file__).parent / "data" / "schema1.zip") as file:
        file.extractall(folder)
    return folder


def test_a_converted_cache_is_the_one_that_would_be_made_now(
    old: Path, tmp_path: Path, maker: Callable[..., Any], tree_of: Tree
) -> None:
    made = maker(bad=[2], layers=(1, 2), cls=True)
    made.write()
    made.finish()
    report = convert(old, tmp_path / "new")
    assert (report.before, report.after) == (OLD_ID, made.plan.id)
    assert (report.shards, report.damaged, report.complete, report.exit_code) == (3, {}, True, 0)
    assert tree_of(tmp_path / "new") == tree_of(made.path)
    assert verify(tmp_path / "new", full=True).ok
    reader = CacheReader(tmp_path / "new")
    for i, row in enumerate(made.rows):
        if isinstance(row, Quarantined):
            assert reader.quarantined == (row,)
            continue
        np.testing.assert_array_equal(reader.features(i), row.patches)
        np.testing.assert_array_equal(reader.sam(i), row.sam)
        assert reader.superpixels(i).rles == row.superpixels.rles
        assert reader.superpixels(i).survivors == row.superpixels.survivors
    again = convert(old, tmp_path / "new")
    assert dataclasses.replace(again) == report, "safe to repeat"


def test_the_old_cache_is_refused_with_the_command(old: Path) -> None:
    with pytest.raises(CacheError, match=r"cache schema 1.*svp cache convert"):
        Plan.load(old)
    with pytest.raises(CacheError, match="svp cache convert"):
        CacheReader(old)


@pytest.mark.parametrize("name", ["dino/c/1/0/0", "cover/c/1/0/0", "manifest/1.json"])
def test_a_damaged_shard_is_left_out_and_named(old: Path, tmp_path: Path, name: str) -> None:
    path = old / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    report = convert(old, tmp_path / "new")
    assert (report.shards, [*report.damaged], report.complete) == (2, [1], False)
    assert report.exit_code == 1
    assert name in report.damaged[1]
    reader = CacheReader(tmp_path / "new")
    assert [reader.status(i) for i in (0, 4, 9)] == ["ok", "missing", "ok"]


def test_an_unfinished_cache_stays_unfinished(old: Path, tmp_path: Path) -> None:
    for name in ("COMPLETE", "index.json", "manifest/2.json"):
        (old / name).unlink()
    report = convert(old, tmp_path / "new")
    assert (report.shards, report.damaged, report.complete) == (2, {}, False)


def test_what_cannot_be_converted_is_refused(old: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name another folder"):
        convert(old, old)
    with pytest.raises(MissingError, match="not a cache of svp"):
        convert(tmp_path, tmp_path / "new")
    convert(old, tmp_path / "new")
    with pytest.raises(ConfigError, match="present format already"):
        convert(tmp_path / "new", tmp_path / "newer")
    (old / "plan.json").write_bytes(b'{"schema_version":1}\n')
    with pytest.raises(CacheError, match="damaged"):
        convert(old, tmp_path / "third")
