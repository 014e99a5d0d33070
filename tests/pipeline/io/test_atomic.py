"""Temp files: what is written, in how many calls, and what a short write leaves to do."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import xxhash

from svp.pipeline.io.atomic import write_temp
from svp.pipeline.io.binary import IOV_MAX

Buffers = Sequence[bytes | memoryview]


@pytest.mark.parametrize("most", [1, 7, None], ids=["1 byte", "7 bytes", "whole"])
def test_a_file_holds_its_buffers_however_the_system_cuts_them(
    most: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One large call per file, or later reads are slower; a call may still write only a part."""
    calls = 0
    whole = os.writev

    def writev(fd: int, buffers: Buffers, /) -> int:
        nonlocal calls
        calls += 1
        return whole(fd, buffers) if most is None else os.write(fd, b"".join(buffers)[:most])

    monkeypatch.setattr(os, "writev", writev)
    parts: list[bytes | memoryview] = [b"row 0", memoryview(b"c"), b"", b"row 1", b"crc", b""]
    data = b"".join(parts)
    file = write_temp(tmp_path / "shard", parts, label="dino")
    file.commit()
    assert (tmp_path / "shard").read_bytes() == data
    assert (file.bytes, file.xxh3) == (len(data), xxhash.xxh3_64_hexdigest(data))
    assert calls == -(-len(data) // (most or len(data)))


def test_more_buffers_than_one_call_takes(tmp_path: Path) -> None:
    parts = [i.to_bytes(2, "little") for i in range(2 * IOV_MAX + 5)]
    write_temp(tmp_path / "shard", parts, label="dino").commit()
    assert (tmp_path / "shard").read_bytes() == b"".join(parts)
