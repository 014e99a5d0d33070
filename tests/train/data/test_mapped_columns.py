"""Columns over a mapped file: nothing of a large table is held, nothing of a damaged one is read."""

import gc
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from numpy.typing import NDArray
from safetensors.numpy import save

from svp.pipeline.errors import CacheError
from svp.train.data import mapped_columns
from svp.train.data.expression_table import (
    INDEX,
    TABLE,
    ExpressionTable,
    TableFile,
    column_fault,
)
from svp.train.data.mapped_columns import Mapped


def write_table(path: Path, n: int) -> None:
    """A table of n images with one sentence each; ten masks."""
    texts = [f"thing {i} ä".encode() for i in range(n)]
    every = np.arange(n, dtype=np.int64)
    columns: dict[str, NDArray[Any]] = {
        name: every for name in ("image_id", "row", "sent_id", "ref_id", "ann_id")
    }
    columns |= {name: np.zeros(n, np.int64) for name in ("dataset", "cache")}
    columns |= {name: np.full(n, 8) for name in ("height", "width")}
    columns |= {name: np.zeros(10, np.int64) for name in ("part", "crc")}
    columns |= {
        "first": np.arange(n + 1), "target": every % 10, "offset": 8 * np.arange(10),
        "text": np.frombuffer(b"".join(texts), np.uint8),
        "text_end": np.cumsum([0, *map(len, texts)]),
    }  # fmt: skip
    path.mkdir()
    data = save(columns)
    (path / INDEX).write_bytes(data)
    (path / "targets-00000.bin").write_bytes(bytes(80))
    table = TableFile(
        schema_version=1, digest="ab" * 32, caches=["cd" * 32], datasets=["x"], sizes=[n],
        parts=[80], index=xxhash.xxh3_64_hexdigest(data), notes=[],
    )  # fmt: skip
    (path / TABLE).write_bytes(table.sealed().data())


def test_an_open_table_holds_no_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n = 100_000
    write_table(tmp_path / "table", n)
    monkeypatch.setattr(mapped_columns, "STEP", 1000)
    ExpressionTable(tmp_path / "table")  # what is made once: models, imports
    gc.collect()
    tracemalloc.start()
    table = ExpressionTable(tmp_path / "table")
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < n and peak < 4 * n  # bytes; read whole it was 180 of each
    assert (len(table), table.sentence_count) == (n, n)
    assert table.sentences(77_777)[0].text == "thing 77777 ä"
    assert table.entry(99_999).row == 99_999
    assert not any(column.flags.owndata for column in table.places)
    assert table.longer_than(13) == {i: [0] for i in range(10_000, n)}


def raw(header: object, body: bytes = bytes(64)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def column(kind: str = "I64", shape: object = (2,), at: object = (0, 16)) -> dict[str, object]:
    return {"a": {"dtype": kind, "shape": shape, "data_offsets": at}}


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"abc", "cut off"), ((1 << 40).to_bytes(8, "little"), "cut off"), (bytes(8), "cut off"),
        (raw(b"{"), "not JSON"), (raw(b"[" * 100_000), "not JSON"), (raw([1]), "no object"),
        (raw({"a": 3}), "'?a'? is not"), (raw(column(shape=(1, 2))), "one dimension"),
        (raw(column(shape=(2.5,))), "one dimension"), (raw(column(kind="BF16")), "is BF16"),
        (raw(column(at=(0, 8))), "outside"), (raw(column(at=(-16, 0))), "outside"),
        (raw(column(at=(56, 72))), "outside"), (raw(column(shape=(-2,), at=(16, 0))), "outside"),
        (raw(column(shape=(1 << 62,), at=(0, 1 << 65))), "outside"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_before_its_columns_are_read(
    data: bytes, told: str, tmp_path: Path
) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ValueError, match=told):
        Mapped(tmp_path / "x", 1 << 20).columns()


def test_what_safetensors_writes_is_read(tmp_path: Path) -> None:
    made = {"a": np.arange(5), "b": np.array([1, 2, 255], np.uint8), "none": np.zeros(0, np.int64)}
    (tmp_path / "x").write_bytes(save(made, {"note": "x"}))
    found = Mapped(tmp_path / "x", 1 << 20).columns()
    assert found.keys() == made.keys()
    assert all(np.array_equal(found[k], v) and found[k].dtype == v.dtype for k, v in made.items())


def test_links_sizes_and_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(100))
    (tmp_path / "link").symlink_to(tmp_path / "x")
    (tmp_path / "empty").touch()
    for name, told in (("link", "cannot be read"), ("none", "cannot be read"), (".", "not a regular"),
                       ("empty", "expected 1 to 50"), ("x", "100 bytes, expected 1 to 50")):  # fmt: skip
        with pytest.raises(CacheError, match=told):
            Mapped(tmp_path / name, 50)


@pytest.mark.parametrize("step", [1, 2, 3, 1000])
def test_faults_between_two_parts_are_found(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns are looked at in parts: a fault on the border of two is none less."""
    monkeypatch.setattr(mapped_columns, "STEP", step)
    text = "aäb".encode()
    columns: dict[str, NDArray[Any]] = {
        name: np.zeros(3, np.int64)
        for name in ("dataset", "image_id", "cache", "row", "sent_id", "ref_id", "ann_id", "target")
    }
    columns |= {name: np.ones(3, np.int64) for name in ("height", "width")}
    columns |= {name: np.zeros(1, np.int64) for name in ("part", "offset", "crc")}
    columns |= {"first": np.array([0, 1, 2, 3]), "text": np.frombuffer(text, np.uint8)}
    columns |= {"text_end": np.array([0, 1, 3, 4])}
    assert column_fault(columns, 1, 1, 1) == ""
    cut = columns | {"text_end": np.array([0, 1, 2, 4])}
    assert "inside a character" in column_fault(cut, 1, 1, 1)
    back = columns | {"text_end": np.array([0, 3, 1, 4])}
    assert "text_end" in column_fault(back, 1, 1, 1)
    none = columns | {"first": np.array([0, 2, 2, 3])}
    assert "column first" in column_fault(none, 1, 1, 1)
    half = columns | {"text": np.frombuffer(text[:2] + b"b" + text[3:], np.uint8)}
    assert "UTF-8" in column_fault(half, 1, 1, 1)
