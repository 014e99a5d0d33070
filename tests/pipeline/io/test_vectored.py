"""Runs of buffers: what is left of one, and a read that the system cuts."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svp.pipeline.io.binary import after, read_at


@given(st.lists(st.binary(max_size=5), max_size=6), st.integers(0, 40))
def test_what_is_left_of_a_run_of_buffers(parts: list[bytes], done: int) -> None:
    left = after([memoryview(part) for part in parts], done)
    assert b"".join(left) == b"".join(parts)[done:]
    assert all(left)  # an empty buffer would be written for ever


def test_a_cut_read_goes_on_and_the_end_of_the_file_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"..row 0crc")
    whole = os.preadv

    def preadv(fd: int, buffers: Sequence[memoryview], offset: int, /) -> int:
        return whole(fd, [buffers[0][:3]], offset)

    monkeypatch.setattr(os, "preadv", preadv)
    row, tail, beyond = bytearray(5), bytearray(3), bytearray(4)
    with (tmp_path / "file").open("rb") as file:
        assert read_at(file.fileno(), [memoryview(row), memoryview(tail)], 2) == 8
        assert (bytes(row), bytes(tail)) == (b"row 0", b"crc")
        assert read_at(file.fileno(), [memoryview(beyond)], 7) == 3
