"""Any sequence of writes, kills, damage, repairs and reads: a cache never tells a wrong value.

A hypothesis state machine over a cache of three shards and three layers. Kills are real (SIGKILL of
a forked child at the named write points), damage is a flipped bit, a cut or a lost file, and after
every step:

- nothing half-written is taken for whole: no step but damage makes a file differ from the golden one
- nothing is lost: what was committed stays committed until `repair` or damage takes it out
- nothing is made twice: a resume computes exactly the layers' parts of shards that are not whole
- a row reads as the golden bytes or is refused, and it is refused only if one of its files is wrong

Each run of the machine ends with repair and resume: the cache is then the golden one, byte for byte.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from support.cache_model import (
    Golden,
    Part,
    build_golden,
    contents,
    everything,
    fast_folder,
    killed_at,
    manifest,
)
from support.cache_work import committed_parts, complete, problems, read_rows, resume, whole, write
from support.state_machine import run_machine
from svp.pipeline.cache import CacheReader, repair, verify
from svp.pipeline.cache import manifest as manifest_module
from svp.pipeline.cache.layout import COMPLETE, INDEX
from svp.pipeline.errors import CacheError
from svp.pipeline.io.atomic import STAGES

GOLDEN: Golden = build_golden()
SHARDS = st.integers(0, GOLDEN.plan.num_shards - 1)
FOLDERS = st.sets(st.sampled_from(GOLDEN.folders), min_size=1)
SHARD_LABELS = ("dino", "rle", "crop", "cover", "log")
SHARD_LABELS += ("manifest-superpixels", "manifest-cover", "manifest-features")
ALL_LABELS = (*SHARD_LABELS, "metadata", "column", "index", "complete")
POINTS = st.builds("{}:{}".format, st.sampled_from(SHARD_LABELS), st.sampled_from(STAGES))
ANY_POINTS = st.builds("{}:{}".format, st.sampled_from(ALL_LABELS), st.sampled_from(STAGES))
# Records are few among many data files but matter most: they are damaged as often as all others.
RECORDS = sorted(
    {f"{folder}/{name}" for folder in GOLDEN.folders for name in (INDEX, COMPLETE)}
    | {manifest(part) for part in GOLDEN.parts}
)
NAMES = st.sampled_from(RECORDS) | st.sampled_from(GOLDEN.targets())
steps = {"count": 0}


class CacheMachine(RuleBasedStateMachine):
    """The cache in `self.cache` against `GOLDEN`."""

    @initialize(complete=st.booleans())
    def make(self, complete: bool) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="svp-machine-", dir=fast_folder()))
        self.cache = self.root / "cache"
        files = GOLDEN.files if complete else GOLDEN.empty
        for name, data in files.items():  # as `create_cache` or a build leaves it, much faster
            (self.cache / name).parent.mkdir(parents=True, exist_ok=True)
            (self.cache / name).write_bytes(data)
        self.now = contents(self.cache)  # read anew after every step
        self.wrong: set[str] = set()  # files whose bytes differ, by our own damage only
        self.kept = self._manifests()  # layers' parts of shards that have a manifest
        self.old: CacheReader | None = None

    def teardown(self) -> None:
        if hasattr(self, "cache"):
            repair(self.cache)
            self._resume()
            assert contents(self.cache) == GOLDEN.files
            assert not list(self.cache.rglob("*.partial/*"))
            assert verify(self.cache, full=True).ok
            shutil.rmtree(self.root)

    # Work.

    @rule(shard=SHARDS)
    def write(self, shard: int) -> None:
        done = self._write(shard)
        parts = GOLDEN.shard_parts(shard) if done else None
        self._settled(may_heal=GOLDEN.shard_files(shard), committed=parts)

    @rule(shard=SHARDS, folders=FOLDERS)
    def write_some_layers(self, shard: int, folders: set[str]) -> None:
        done = self._write(shard, folders)
        parts = {(folder, shard) for folder in folders}
        files = frozenset().union(*(GOLDEN.parts[part] for part in parts))
        self._settled(may_heal=files, committed=parts if done else None)

    @rule(shard=SHARDS, point=POINTS)
    def kill_a_write(self, shard: int, point: str) -> None:
        # A file that is there is not written again, and a damaged one ends the write.
        there = GOLDEN.shard_files(shard) & self.now.keys()
        killed = killed_at(point, lambda: self._write(shard))
        assert killed or there, f"{point}: every new shard passes every one of its points"
        self._settled(may_heal=GOLDEN.shard_files(shard))

    @rule()
    def resume(self) -> None:
        self._resume()
        self._settled(may_heal=frozenset(GOLDEN.files), committed=set(GOLDEN.parts))

    @rule(point=ANY_POINTS)
    def kill_a_resume(self, point: str) -> None:
        before, sound = set(self.kept), {part for part in self.kept if self._whole(part)}
        killed_at(point, self._resume)
        self.kept = self._manifests()
        assert not (before - self.kept) & sound, "a resume took out a sound part"
        self._settled(may_heal=frozenset(GOLDEN.files))

    # Damage.

    @rule(name=NAMES, place=st.integers(0, 1 << 20), bit=st.integers(0, 7))
    def flip_a_bit(self, name: str, place: int, bit: int) -> None:
        path = self.cache / name
        if path.exists() and (data := bytearray(path.read_bytes())):
            data[place % len(data)] ^= 1 << bit
            path.write_bytes(data)
            self._damaged()

    @rule(name=NAMES, share=st.floats(0, 0.99))
    def cut(self, name: str, share: float) -> None:
        path = self.cache / name
        if path.exists():
            os.truncate(path, int(path.stat().st_size * share))
            self._damaged()

    @rule(name=NAMES)
    def lose(self, name: str) -> None:
        (self.cache / name).unlink(missing_ok=True)
        self._damaged()

    @rule(number=st.integers(0, 2), place=st.integers(0, 1 << 20), cut=st.booleans())
    def spoil_copies_of_manifests(self, number: int, place: int, cut: bool) -> None:
        """No part of the content: what a resume does is the same."""
        copies = sorted(self.cache.glob("logs/manifests/**/*.zst"))
        # A copy cut short before may be empty.
        if number < len(copies) and (data := bytearray(copies[number].read_bytes())):
            data[place % len(data)] ^= 1
            copies[number].write_bytes(data[: place % len(data)] if cut else data)

    # Looking and mending.

    @rule()
    def verify(self) -> None:
        """Full verification names exactly the wrong files."""
        report = verify(self.cache, full=True)
        assert {name for name, _ in report.problems} == self._expected_problems()
        assert set(report.missing) == {shard for _, shard in GOLDEN.parts.keys() - self.kept}
        assert report.complete == all(map(self._complete, GOLDEN.folders))

    @rule()
    def repair(self) -> None:
        damaged = {part for part in self.kept if not self._whole(part)}
        problems = self._expected_problems() - GOLDEN.metadata
        sound = {
            folder
            for folder in filter(self._complete, GOLDEN.folders)
            if not any(name.startswith(f"{folder}/") for name in problems)
        }
        assert set(repair(self.cache)) == {shard for _, shard in damaged}
        self.kept -= damaged
        assert all(map(self._complete, sound)), "repair touched a layer without damage"
        self._settled(may_heal=frozenset(GOLDEN.files))
        CacheReader(self.cache)  # a repaired cache can be opened, whatever it lost

    @rule(point=ANY_POINTS)
    def kill_a_repair(self, point: str) -> None:
        before = set(self.kept)
        killed_at(point, lambda: repair(self.cache))
        self.kept = self._manifests()
        lost = before - self.kept
        assert not any(map(self._was_whole, lost)), "repair took out a sound part of a shard"
        self._settled(may_heal=frozenset(GOLDEN.files))

    @rule()
    def open_early(self) -> None:
        try:
            self.old = CacheReader(self.cache, verify="always")
        except CacheError:
            self.old = None

    @precondition(lambda self: self.old is not None)
    @rule()
    def read_late(self) -> None:
        """A reader that was opened before the last steps never gives a wrong value either."""
        assert self.old is not None
        for i in range(len(GOLDEN.rows)):
            if self.old.status(i) == "ok":
                try:
                    assert everything(self.old, i) == GOLDEN.values[i]
                except CacheError:
                    continue

    # What must hold after every step.

    @invariant()
    def reads_are_right_or_refused(self) -> None:
        if hasattr(self, "cache"):
            steps["count"] += 1
            read_rows(self.cache, GOLDEN, self.now)

    # Helpers.

    def _write(self, shard: int, folders: Collection[str] = GOLDEN.folders) -> bool:
        return write(self.cache, GOLDEN, shard, folders)

    def _resume(self) -> None:
        resume(self.cache, GOLDEN)

    def _complete(self, folder: str) -> bool:
        return complete(self.cache, folder)

    def _whole(self, part: Part) -> bool:
        return whole(GOLDEN, part, self.now)

    def _was_whole(self, part: Part) -> bool:
        """Whether the data files of an un-committed part are all as they must be."""
        names = GOLDEN.parts[part] - {manifest(part)}
        sound = not any(GOLDEN.differs(name, self.now) for name in names)
        return sound and manifest(part) not in self.wrong

    def _manifests(self) -> set[Part]:
        return committed_parts(self.cache, GOLDEN)

    def _differing(self) -> set[str]:
        self.now = contents(self.cache)
        assert self.now.keys() <= GOLDEN.files.keys(), "a file nobody asked for"
        return {name for name in self.now if GOLDEN.differs(name, self.now)}

    def _damaged(self) -> None:
        """Take note of damage done on purpose."""
        self.wrong, self.kept = self._differing(), self._manifests()

    def _settled(self, may_heal: frozenset[str], committed: set[Part] | None = None) -> None:
        """After a step that is no damage: no new wrong file, nothing healed elsewhere or lost."""
        now, there = self._differing(), self._manifests()
        assert now <= self.wrong, f"half-written: {now - self.wrong}"
        assert self.wrong - now <= may_heal
        assert there >= self.kept | (committed or set()), "a committed part was lost"
        self.wrong, self.kept = now, there

    def _expected_problems(self) -> set[str]:
        return problems(self.cache, GOLDEN, self.now)


def run(examples: int, length: int) -> int:
    """Run the machine; returns how many steps were taken."""
    steps["count"] = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_module, "FEW", 0)  # copies of manifests, of three shards too
        run_machine(CacheMachine, examples, length)
    return steps["count"]


@pytest.mark.timeout(600)
def test_any_interleaving(record_property: Callable[[str, object], None]) -> None:
    taken = run(examples=16, length=40)
    record_property("tried", taken)
    assert taken > 250, "the machine stopped early"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_any_interleaving_at_length(record_property: Callable[[str, object], None]) -> None:
    taken = run(examples=1000, length=60)
    record_property("tried", taken)
    assert taken > 30_000
