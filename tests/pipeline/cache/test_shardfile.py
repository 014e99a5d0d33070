"""One shard file: byte-equal to zarr-python's, and never a wrong value from a damaged one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import zstd
from numpy.typing import NDArray

from svp.pipeline.cache.schema import ArraySpec
from svp.pipeline.cache.shard_file import ShardFile, encode_shard
from svp.pipeline.cache.zarr_metadata import array_metadata
from svp.pipeline.errors import CacheError
from svp.pipeline.store import open_folder

SHARD = 8
Rows = list[NDArray[Any] | None]

specs = st.builds(
    lambda dtype, row, level: ArraySpec(
        "a", dtype, row, level, tuple("xyz"[: len(row)]), "for tests"
    ),
    st.sampled_from(["uint8", "uint16", "int8", "int32", "float16", "float32"]),
    st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple),
    st.sampled_from([None, 3, 5]),
)


def some_rows(spec: ArraySpec, count: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    # No row is all zeros: zarr-python stores none of these, we store every image.
    return [rng.integers(1, 100, spec.row).astype(spec.dtype) for _ in range(count)]


def save(path: Path, spec: ArraySpec, rows: Rows) -> bytes:
    data = b"".join(bytes(part) for part in encode_shard(spec, rows, SHARD))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return data


def oracle(folder: Path, spec: ArraySpec, rows: Rows) -> bytes:
    """The shard file zarr-python writes for the same rows."""
    import zarr

    (folder / "zarr.json").write_bytes(array_metadata(spec, len(rows), SHARD))
    array = zarr.open_array(folder, mode="r+", config={"write_empty_chunks": True})
    array[:] = np.stack([row for row in rows if row is not None])
    return folder.joinpath("c", *["0"] * (1 + len(spec.row))).read_bytes()


@given(specs, st.integers(1, SHARD), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_byte_equal_to_zarr_python_both_ways(spec: ArraySpec, count: int, seed: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = some_rows(spec, count, seed)
        theirs = oracle(folder, spec, rows)
        assert b"".join(bytes(part) for part in encode_shard(spec, rows, SHARD)) == theirs
        file = opened(folder.joinpath("c", *["0"] * (1 + len(spec.row))), spec)
        for slot in range(SHARD):
            assert file.has(slot) == (slot < count)
        for slot, row in enumerate(rows):
            out = np.empty(spec.row, spec.numpy)
            file.read(slot, out, verify=True)
            np.testing.assert_array_equal(out, row)


CRC = ArraySpec("dino", "float16", (3, 5), None, ("p", "c"), "")
ZSTD = ArraySpec("cover", "float16", (6, 4), 3, ("k", "p"), "")


def opened(path: Path, spec: ArraySpec) -> ShardFile:
    return ShardFile(open_folder(path.parent), path.name, spec, SHARD)


def read_all(path: Path, spec: ArraySpec) -> Iterator[NDArray[Any] | None]:
    file = opened(path, spec)
    for slot in range(SHARD):
        if file.has(slot):
            out = np.full(spec.row, 77, spec.numpy)
            file.read(slot, out, verify=True)
            yield out
        else:
            yield None


@pytest.mark.parametrize("spec", [CRC, ZSTD], ids=["crc32c", "zstd"])
def test_quarantined_rows_have_no_chunk_and_short_rows_are_padded(
    spec: ArraySpec, tmp_path: Path
) -> None:
    rows = some_rows(spec, 4, 1)
    rows[1] = None
    if spec.level is not None:
        rows[2] = np.ones((2, 4), np.float16)
    save(tmp_path / "c/0", spec, rows)
    got = list(read_all(tmp_path / "c/0", spec))
    assert got[1] is None and got[4:] == [None] * 4
    np.testing.assert_array_equal(got[0], rows[0])
    if spec.level is not None:
        np.testing.assert_array_equal(got[2], [[1] * 4] * 2 + [[0] * 4] * 4)


@pytest.mark.parametrize("spec", [CRC, ZSTD], ids=["crc32c", "zstd"])
def test_no_flipped_byte_and_no_cut_gives_a_wrong_value(spec: ArraySpec, tmp_path: Path) -> None:
    rows = some_rows(spec, 5, 2)
    rows[3] = None
    path = tmp_path / "c/0"
    data = save(path, spec, rows)
    silent = 0
    for place in range(0, len(data), 1 + 2 * (spec is CRC)):
        for mask in (0xFF, 1 << place % 8):
            path.write_bytes(data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :])
            silent += same_or_error(path, spec, rows)
    for size in range(0, len(data), 5):
        path.write_bytes(data[:size])
        silent += same_or_error(path, spec, rows)
    # Rows other than the damaged one may be read first; a pass without any error would mean
    # that a byte of the file does not matter.
    assert silent == 0


def same_or_error(path: Path, spec: ArraySpec, rows: Rows) -> bool:
    """Whether all rows were read without an error; a wrong value fails the test."""
    try:
        for slot, got in enumerate(read_all(path, spec)):
            want = rows[slot] if slot < len(rows) else None
            assert (got is None) == (want is None)
            if want is not None:
                np.testing.assert_array_equal(got, want)
    except CacheError as error:
        assert str(path) in str(error) and "svp cache repair" in str(error)
        return False
    return True


def index_of(pairs: list[tuple[int, int]]) -> bytes:
    import crc32c

    table = np.full((SHARD, 2), (1 << 64) - 1, "<u8")
    table[: len(pairs)] = pairs
    return table.tobytes() + crc32c.crc32c(table.tobytes()).to_bytes(4, "little")


@pytest.mark.parametrize(
    "pair",
    [(0, 35), (0, 0), (1, 34), (1 << 63, 34), (0, 1 << 63), ((1 << 64) - 2, 34), (0, 10**12)],
)
def test_an_index_that_points_elsewhere_is_refused(tmp_path: Path, pair: tuple[int, int]) -> None:
    path = tmp_path / "0"
    path.write_bytes(bytes(34) + index_of([pair]))
    with pytest.raises(CacheError, match="points outside"):
        opened(path, CRC)


@pytest.mark.parametrize("size", [0, 10, 10**7])
def test_a_frame_of_another_size_is_refused_before_decoding(tmp_path: Path, size: int) -> None:
    frame = zstd.compress(bytes(size), 3, checksum=True)
    (tmp_path / "0").write_bytes(frame + index_of([(0, len(frame))]))
    with pytest.raises(CacheError, match="not a zstd frame of 48 bytes|points outside"):
        list(read_all(tmp_path / "0", ZSTD))


def test_a_frame_without_checksum_or_with_a_follower_is_refused(tmp_path: Path) -> None:
    rows = zstd.compress(bytes(48), 3, checksum=False), zstd.compress(bytes(48), 3, checksum=True)
    for frame in (rows[0], rows[1] + rows[1]):
        (tmp_path / "0").write_bytes(frame + index_of([(0, len(frame))]))
        with pytest.raises(CacheError, match="row 0"):
            list(read_all(tmp_path / "0", ZSTD))


@pytest.mark.parametrize(
    "row", [np.zeros((3, 4), np.float16), np.zeros((3, 5)), np.zeros((2, 5), np.float16)]
)
def test_a_row_of_another_shape_or_type_is_our_bug(row: NDArray[Any]) -> None:
    with pytest.raises(CacheError, match="array dino: a row is"):
        encode_shard(CRC, [row], SHARD)


def test_links_folders_and_pipes_are_refused(tmp_path: Path) -> None:
    import os

    save(tmp_path / "real", CRC, some_rows(CRC, 1, 1))
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "folder", "pipe", "absent"):
        with pytest.raises(CacheError, match=name):
            opened(tmp_path / name, CRC)
