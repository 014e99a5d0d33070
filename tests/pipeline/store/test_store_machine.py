"""Any sequence of operations, kills and faults: a store answers as a dictionary does, or refuses.

After every step the files are those of the model: nothing lost, nothing mixed, nothing half written.
On the object server requests fail, answers are cut or lost, and writers meet; the operations still
end as they do without.
"""

import os
import signal
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import xxhash
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from support.object_server import ObjectServer
from svp.pipeline.errors import CacheError, MissingError
from svp.pipeline.io.atomic import STAGES
from svp.pipeline.store import (
    ChangedError,
    FolderStore,
    OtherBytesError,
    Read,
    RetryPolicy,
    Store,
    open_store,
)

POLICY = RetryPolicy(patience=60, first_wait=0.001, longest_wait=0.01, stall=5)
KEYS = st.sampled_from(["plan", "dino/c/0", "a b/ü"])
DATA = st.sampled_from([b"", b"0", b"1", bytes(range(256)) * 20, b"\0" * 5120])
WHO = st.sampled_from(["node1, A100", "node2, H200"])
FAULTS = st.sampled_from(
    [{}, {"error_rate": 0.3}, {"cut_rate": 0.3}, {"lost_rate": 0.3}, {"conflict_rate": 0.3},
     {"error_rate": 0.2, "cut_rate": 0.2, "lost_rate": 0.2, "page": 2}]
)  # fmt: skip


class Machine(RuleBasedStateMachine):
    """A store and the dictionary that it must equal."""

    start: ClassVar[Callable[[], Store]]
    server: ClassVar[ObjectServer | None] = None

    def __init__(self) -> None:
        super().__init__()
        self.store = type(self).start()
        self.files: dict[str, bytes] = {}
        self.makers: dict[str, str] = {}
        self.tags: dict[str, list[str]] = {}  # of all versions that were read, oldest first

    @rule(key=KEYS, data=DATA, who=WHO, cut=st.integers(0, 20))
    def create(self, key: str, data: bytes, who: str, cut: int) -> None:
        there = self.files.get(key)
        try:
            made = self.store.create(key, [data[:cut], data[cut:]], who=who)
        except OtherBytesError as error:
            assert there is not None and there != data
            assert error.theirs == xxhash.xxh3_64_hexdigest(there)
            assert (error.who, error.maker) == (who, self.makers[key])
            return
        assert there is None or there == data
        assert (made.bytes, made.xxh3) == (len(data), xxhash.xxh3_64_hexdigest(data))
        if there is not None:
            assert not made.made
        elif self.server is None:
            assert made.made  # where an answer is lost, a writer finds its own file
        if there is None:
            self.files[key], self.makers[key] = data, who

    @rule(key=KEYS, data=DATA)
    def replace(self, key: str, data: bytes) -> None:
        tag = self.store.replace(key, data)
        self.files[key], self.makers[key] = data, ""
        self.tags.setdefault(key, []).append(tag)

    @rule(key=KEYS)
    def look(self, key: str) -> None:
        try:
            found = self.store.stat(key)
        except MissingError:
            assert key not in self.files
            return
        assert found.bytes == len(self.files[key]) and found.maker == self.makers[key]
        self.tags.setdefault(key, []).append(found.tag)

    @precondition(lambda self: self.tags)
    @rule(draw=st.data(), data=DATA)
    def replace_a_version(self, draw: Any, data: bytes) -> None:
        key, tag = self._version(draw)
        there = self.files.get(key)
        current = there is not None and self._is_current(key, tag)
        try:
            self.tags[key].append(self.store.replace(key, data, tag))
        except ChangedError:
            assert not current
            return
        # A tag is of the bytes on S3: a replacement may hold already what it would write.
        assert current or there == data
        self.files[key], self.makers[key] = data, self.makers[key] if not current else ""

    @precondition(lambda self: self.tags)
    @rule(draw=st.data())
    def delete_a_version(self, draw: Any) -> None:
        key, tag = self._version(draw)
        there = key in self.files
        current = there and self._is_current(key, tag)
        try:
            assert self.store.delete(key, tag) == there
        except ChangedError:
            assert there and not current
            return
        assert current or not there
        self.files.pop(key, None)

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        assert self.store.delete(key) == (key in self.files)
        self.files.pop(key, None)

    @rule(ranges=st.lists(st.tuples(KEYS, st.integers(0, 6000), st.integers(0, 6000)), max_size=8))
    def read_many(self, ranges: list[tuple[str, int, int]]) -> None:
        wanted = [(key, start, size) for key, start, size in ranges if size]
        buffers = [bytearray(size) for _, _, size in wanted]
        whole = all(start + size <= len(self.files.get(key, b"")) for key, start, size in wanted)
        reads = [
            Read(key, start, [memoryview(buffer)[:3], memoryview(buffer)[3:]])
            for (key, start, _), buffer in zip(wanted, buffers, strict=True)
        ]
        try:
            self.store.read_many(reads)
        except (CacheError, MissingError):
            assert not whole
            return
        assert whole
        for (key, start, size), buffer in zip(wanted, buffers, strict=True):
            assert buffer == self.files[key][start : start + size]

    @rule(key=KEYS, n=st.integers(0, 6000))
    def tail(self, key: str, n: int) -> None:
        try:
            found, size = self.store.tail(key, n)
        except MissingError:
            assert key not in self.files
            return
        data = self.files[key]
        assert size == len(data) and found == data[max(0, size - n) :]

    @precondition(lambda self: self.server is not None)
    @rule(knobs=FAULTS, seed=st.integers(0, 99))
    def strike(self, knobs: dict[str, float], seed: int) -> None:
        assert self.server is not None
        self.server.set(**knobs, seed=seed)

    @precondition(lambda self: isinstance(self.store, FolderStore))
    @rule(key=KEYS, data=DATA, stage=st.sampled_from(STAGES))
    def killed(self, key: str, data: bytes, stage: str) -> None:
        """A writer that dies within `create`: a real SIGKILL of a forked child."""
        child = os.fork()
        if child == 0:
            try:
                os.environ["SVP_CRASH_AT"] = f"x:{stage}"
                self.store.create(key, [data], who="dead", label="x")
            finally:
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        there = self.files.get(key)
        assert status == (1 if there is not None else -signal.SIGKILL)
        if there is None and stage == "after-rename":
            self.files[key], self.makers[key] = data, "dead"

    @rule()
    def tidy(self) -> None:
        self.store.tidy()
        if isinstance(self.store, FolderStore):
            assert not (self.store.top / ".partial").exists()

    @invariant()
    def the_files_are_those_of_the_model(self) -> None:
        assert sorted(self.store.sizes()) == sorted((k, len(d)) for k, d in self.files.items())
        for key, data in self.files.items():
            assert self.store.digest(key) == (len(data), xxhash.xxh3_64_hexdigest(data))

    def _version(self, draw: Any) -> tuple[str, str]:
        key = draw.draw(st.sampled_from(sorted(self.tags)))
        return key, draw.draw(st.sampled_from(self.tags[key]))

    def _is_current(self, key: str, tag: str) -> bool:
        return self.store.stat(key).tag == tag


def run(start: Callable[[], Store], server: ObjectServer | None = None) -> None:
    """The machine over new stores of `start`."""
    case = type("Case", (Machine,), {"start": staticmethod(start), "server": server}).TestCase
    many = int(os.environ.get("SVP_FUZZ_EXAMPLES", "20"))
    case.settings = settings(
        max_examples=many, stateful_step_count=25, deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )  # fmt: skip
    case().runTest()


def test_memory() -> None:
    run(lambda: open_store(f"memory://{uuid.uuid4().hex}"))


def test_folder(tmp_path: Path) -> None:
    run(lambda: open_store(tempfile.mkdtemp(dir=tmp_path)))


@pytest.mark.timeout(600)
def test_object(s3: ObjectServer) -> None:
    def start() -> Store:
        s3.set()
        return open_store(f"s3://machine/{uuid.uuid4().hex}", POLICY)

    run(start, s3)
