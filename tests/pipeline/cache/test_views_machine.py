"""Two plans in one cache, in any sequence: what is done for one never costs the other anything.

A hypothesis state machine over a cache of two encoders, "a" and "b", whose plans share superpixels
and cover (`views/`). Either plan is made, resumed, dropped (its features), killed half-way or
damaged, its view file as well, and after every step:

- no file of the other plan's own layer has changed, and no sound part of a shared layer is gone
- a row of either plan reads as its golden bytes or is refused, and that only if a file of it is wrong
- a resume of either computes exactly the parts that are not whole
- a full verification names exactly the wrong files; a damaged view is named and nothing is changed

Each run of the machine ends with both plans resumed and one dropped: the cache is then that of the
other plan alone, byte for byte.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from support.cache_model import contents, everything, fast_folder, killed_at, manifest
from support.cache_views import (
    FILES,
    GOLDEN,
    IMAGES,
    METADATA,
    OTHER,
    OWN,
    TwoPlans,
    plan_of,
)
from support.cache_work import committed_parts, complete, problems, read_rows, resume, write
from support.state_machine import run_machine
from svp.pipeline.cache import CacheReader, create_cache, repair, verify
from svp.pipeline.cache.exchange import copy_cache, drop_layers, reuse
from svp.pipeline.cache.layout import COMPLETE, INDEX, PLAN, VIEWS
from svp.pipeline.errors import CacheError, ConfigError, SvpError
from svp.pipeline.io.atomic import STAGES

PLANS = st.sampled_from(sorted(GOLDEN))
SHARDS = st.integers(0, GOLDEN["a"].plan.num_shards - 1)
LABELS = ("plan", "metadata", "dino", "rle", "cover", "log", "manifest-superpixels", "column")
LABELS += ("manifest-features", "index", "complete")
DELETIONS = st.builds("delete:{}".format, st.integers(0, 30))
POINTS = st.builds("{}:{}".format, st.sampled_from(LABELS), st.sampled_from(STAGES)) | DELETIONS
RECORDS = [
    f"{folder}/{name}" for folder in OWN.values() for name in (INDEX, COMPLETE, "layer.json")
]
RECORDS += [manifest((folder, shard)) for folder in OWN.values() for shard in (0, 1)]
TARGETS = sorted({*GOLDEN["a"].targets(), *GOLDEN["b"].targets()})
# A view is called by a number; the machine damages the one that is there.
NAMES = st.just(VIEWS) | st.sampled_from(RECORDS) | st.sampled_from(TARGETS)
steps = {"count": 0}


class ViewsMachine(RuleBasedStateMachine, TwoPlans):
    """The cache in `self.cache` against the golden caches of both plans."""

    @initialize(first=PLANS, both=st.booleans(), made=st.booleans())
    def make(self, first: str, both: bool, made: bool) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="svp-views-", dir=fast_folder()))
        self.cache = self.root / "cache"
        for name, data in (GOLDEN[first].files if made else GOLDEN[first].empty).items():
            (self.cache / name).parent.mkdir(parents=True, exist_ok=True)
            (self.cache / name).write_bytes(data)
        if both:
            create_cache(self.cache, GOLDEN[OTHER[first]].plan, view=True)
        self.old: tuple[str, CacheReader] | None = None
        self.look()

    def teardown(self) -> None:
        if hasattr(self, "cache"):
            for name in self.damaged_views:
                (self.cache / name).unlink()
            for name in GOLDEN:
                create_cache(self.cache, GOLDEN[name].plan, view=True)
            repair(self.cache)
            for name in GOLDEN:
                resume(self.cache, GOLDEN[name], view=True)
            self.look()
            assert self.named == {*GOLDEN} and self.now.keys() - self.plans.keys() == FILES.keys()
            assert not self.wrong and verify(self.cache, full=True).ok
            gone = plan_of(PLAN, self.now[PLAN])  # plan.json itself goes to the view that is left
            drop_layers(self.cache, [OWN[gone]])
            assert contents(self.cache) == GOLDEN[OTHER[gone]].files
            shutil.rmtree(self.root)

    # Work.

    @rule(name=PLANS)
    def add(self, name: str) -> None:
        if self.done(lambda: create_cache(self.cache, GOLDEN[name].plan, view=True)):
            self.settled(name, heals=METADATA)
            assert name in self.named

    @precondition(lambda self: not self.damaged_views)
    @rule(name=PLANS, shard=SHARDS)
    def write_own_layer(self, name: str, shard: int) -> None:
        if name in self.named:
            done = write(self.cache, GOLDEN[name], shard, {OWN[name]})
            self.settled(name, heals=GOLDEN[name].parts[OWN[name], shard])
            assert not done or (OWN[name], shard) in committed_parts(self.cache, GOLDEN[name])

    @rule(name=PLANS)
    def resume(self, name: str) -> None:
        if self.done(lambda: resume(self.cache, GOLDEN[name], view=True)):
            self.settled(name, heals=GOLDEN[name].files, repairs=True)
            assert committed_parts(self.cache, GOLDEN[name]) == GOLDEN[name].parts.keys()

    @rule(name=PLANS, point=POINTS)
    def kill_a_resume(self, name: str, point: str) -> None:
        if not self.damaged_views:
            killed_at(point, lambda: resume(self.cache, GOLDEN[name], view=True))
            self.settled(name, heals=GOLDEN[name].files, repairs=True)

    # Dropping.

    @rule(name=PLANS)
    def drop(self, name: str) -> None:
        other, before = OTHER[name], self.now
        there = name in self.named or any(file.startswith(f"{OWN[name]}/") for file in before)
        drop = partial(drop_layers, self.cache, [OWN[name]])
        if not self.damaged_views and not (there and other in self.named):
            with pytest.raises(ConfigError):  # no such layer, or nothing would be left
                drop()
            assert contents(self.cache) == before
        elif self.done(drop):
            self.settled(name, drops=True)
            assert [*self.plans] == [PLAN] and self.named == {other}
            assert not any(file.startswith(f"{OWN[name]}/") for file in self.now)

    @rule(name=PLANS, point=DELETIONS | st.builds("plan:{}".format, st.sampled_from(STAGES)))
    def kill_a_drop(self, name: str, point: str) -> None:
        def drop() -> None:
            with suppress(SvpError):
                drop_layers(self.cache, [OWN[name]])

        killed_at(point, drop)
        self.settled(name, drops=True)

    # Damage.

    @rule(name=NAMES, place=st.integers(0, 1 << 20), bit=st.integers(0, 7))
    def flip_a_bit(self, name: str, place: int, bit: int) -> None:
        for path in self.targets(name):
            if data := bytearray(path.read_bytes()):
                data[place % len(data)] ^= 1 << bit
                path.write_bytes(data)
        self.look()

    @rule(name=NAMES, share=st.floats(0, 0.99))
    def cut(self, name: str, share: float) -> None:
        for path in self.targets(name):
            os.truncate(path, int(path.stat().st_size * share))
        self.look()

    @rule(name=NAMES)
    def lose(self, name: str) -> None:
        for path in self.targets(name):
            path.unlink()
        self.look()

    @precondition(lambda self: self.damaged_views)
    @rule()
    def delete_a_damaged_view(self) -> None:
        """As its error says: the layers stay, and making it again computes none of them anew."""
        for name in self.damaged_views:
            (self.cache / name).unlink()
        self.look()

    # Looking and mending.

    @rule()
    def verify(self) -> None:
        reports = []
        if self.done(lambda: reports.append(verify(self.cache, full=True))):
            named = [GOLDEN[name] for name in self.named]
            wanted = [problems(self.cache, golden, self.now) for golden in named]
            assert {name for name, _ in reports[0].problems} == set().union(*wanted)
            missing = [
                golden.parts.keys() - committed_parts(self.cache, golden) for golden in named
            ]
            assert set(reports[0].missing) == {shard for parts in missing for _, shard in parts}

    @rule()
    def repair(self) -> None:
        damaged = {part for part in self.parts(self.named) if not self.whole(part)}
        reports = []
        if self.done(lambda: reports.append(repair(self.cache))):
            assert set(reports[0]) == {shard for _, shard in damaged}
            self.settled(*self.named, heals=frozenset(FILES), repairs=True)
            assert self.parts(self.named).isdisjoint(damaged)

    @rule(point=POINTS)
    def kill_a_repair(self, point: str) -> None:
        if not self.damaged_views:
            killed_at(point, lambda: repair(self.cache))
            self.settled(*self.named, heals=frozenset(FILES), repairs=True)

    # Other caches and other readers.

    @rule()
    def copy(self) -> None:
        """A copy holds both plans, or the source is incomplete or damaged."""
        named, out = [GOLDEN[name] for name in self.named], self.root / "copy"
        try:
            copy_cache(self.cache, out)
        except CacheError:
            sound = all(self.whole(part) for golden in named for part in golden.parts)
            marks = all(complete(self.cache, x) for golden in named for x in golden.folders)
            assert self.damaged_views or not sound or not marks
        else:
            found = contents(out)
            plans = {key: plan_of(key, found.pop(key)) for key in sorted(found) if key not in FILES}
            assert plans[PLAN] == self.plans[PLAN] and {*plans.values()} == self.named
            assert found == {
                key: FILES[key] for golden in named for key in golden.files if key != PLAN
            }
        shutil.rmtree(out, ignore_errors=True)
        assert contents(self.cache) == self.now

    @rule(name=PLANS)
    def lend(self, name: str) -> None:
        """A new cache takes of both plans' layers what is sound, and nothing else."""
        golden, out = GOLDEN[name], self.root / "lent"
        create_cache(out, golden.plan)
        reuse(out, golden.plan, [self.cache])
        there = contents(out)
        assert there.items() <= golden.files.items()
        sound = {part for part in golden.parts if self.whole(part)}
        assert committed_parts(out, golden) <= sound
        shutil.rmtree(out)
        assert contents(self.cache) == self.now

    @rule(name=PLANS)
    def open_early(self, name: str) -> None:
        self.old = None
        for view in [view for view, owner in self.plans.items() if owner == name]:
            try:
                self.old = name, CacheReader(self.cache, view=view, verify="always")
            except CacheError:
                continue

    @precondition(lambda self: self.old is not None)
    @rule()
    def read_late(self) -> None:
        """A reader opened before the last steps, a drop as well, gives no wrong value either."""
        assert self.old is not None
        name, reader = self.old
        for i in range(IMAGES):
            if reader.status(i) == "ok":
                try:
                    assert everything(reader, i) == GOLDEN[name].values[i]
                except CacheError:
                    continue

    # What must hold after every step.

    @invariant()
    def reads_are_right_or_refused(self) -> None:
        if hasattr(self, "cache"):
            steps["count"] += 1
            for view, name in self.plans.items():
                read_rows(self.cache, GOLDEN[name], self.now, view)


def run(examples: int, length: int) -> int:
    """Run the machine; returns how many steps were taken."""
    steps["count"] = 0
    run_machine(ViewsMachine, examples, length)
    return steps["count"]


@pytest.mark.timeout(600)
def test_any_interleaving_of_two_plans(record_property: Callable[[str, object], None]) -> None:
    taken = run(examples=16, length=40)
    record_property("tried", taken)
    assert taken > 250, "the machine stopped early"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_any_interleaving_of_two_plans_at_length(
    record_property: Callable[[str, object], None],
) -> None:
    taken = run(examples=600, length=60)
    record_property("tried", taken)
    assert taken > 15_000
