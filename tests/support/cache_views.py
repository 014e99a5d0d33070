"""Two plans in one cache, of two encoders, against the golden caches of each.

`TwoPlans` is what the state machine of views knows: which plans the cache names, which files are
wrong, and what a step for one of the plans may change.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from support.cache_model import Golden, Part, build_golden, contents, small_plan
from support.cache_work import committed_parts, whole
from svp.pipeline.cache.layout import PLAN, VIEWS
from svp.pipeline.errors import CacheError

IMAGES = 4  # two shards; a quarantined image is in the other machine's cache
GOLDEN: dict[str, Golden] = {
    "a": build_golden(small_plan(IMAGES)),
    "b": build_golden(small_plan(IMAGES, encoder="dinov2-small")),
}
OTHER = {"a": "b", "b": "a"}
# Every file but plan.json, which is one plan's or the other's.
FILES = {k: v for golden in GOLDEN.values() for k, v in golden.files.items() if k != PLAN}
OWN = {name: golden.folders[-1] for name, golden in GOLDEN.items()}  # the layer it does not share
METADATA = GOLDEN["a"].metadata | GOLDEN["b"].metadata


def plan_of(name: str, data: bytes) -> str:
    """Whose plan file this is: a view by its name, plan.json by its bytes."""
    for key, golden in GOLDEN.items():
        if data == golden.plan.data or f"-{golden.plan.id[:16]}." in name:
            return key
    raise AssertionError(f"{name}: no plan of these")


class TwoPlans:
    """A cache of two plans, "a" and "b", as it was when it was last looked at.

    now      its files
    plans    whose plan each plan file is, by its key
    wrong    files whose bytes differ from the golden ones; `damaged_views` those of them in `views/`
    """

    cache: Path
    now: dict[str, bytes]
    plans: dict[str, str]
    wrong: set[str]
    damaged_views: set[str]

    @property
    def named(self) -> set[str]:
        """The plans that have a file, damaged or not."""
        return {*self.plans.values()}

    def look(self) -> None:
        """Read the cache anew: `plans` by key, and what of it differs from its golden bytes."""
        self.now = contents(self.cache)
        keys = [key for key in self.now if key == PLAN or key.startswith(f"{VIEWS}/")]
        self.plans = {key: plan_of(key, self.now[key]) for key in keys}
        assert self.now.keys() - self.plans.keys() <= FILES.keys(), "a file nobody asked for"
        self.damaged_views = {
            key for key, name in self.plans.items() if self.now[key] != GOLDEN[name].plan.data
        }
        wrong = {key for key in self.now.keys() & FILES.keys() if self.now[key] != FILES[key]}
        self.wrong = wrong | self.damaged_views

    def done(self, work: Callable[[], object]) -> bool:
        """Do `work`; False where a damaged view stopped it, as it must, before anything changed."""
        if not self.damaged_views:
            work()
            return True
        with pytest.raises(CacheError) as error:
            work()
        assert any(name in str(error.value) for name in self.damaged_views)
        assert "delete the file; its layers stay" in str(error.value)
        assert contents(self.cache) == self.now
        return False

    def settled(
        self, *names: str, heals: Iterable[str] = (), repairs: bool = False, drops: bool = False
    ) -> None:
        """After work on the plans `names`: nothing half-written, and nothing else has changed.

        heals    files that may have become right
        repairs  whether damaged parts of these plans' layers may be gone
        drops    whether the plan's view and own layer may be gone, in part or whole
        """
        before, wrong, named = self.now, self.wrong, self.named
        sound = {part for part in self.parts(GOLDEN) if self.whole(part)}
        self.look()
        assert self.wrong <= wrong, f"half-written: {self.wrong - wrong}"
        healed = {file for file in wrong - self.wrong if file in self.now}
        assert healed <= set(heals)
        assert self.named >= named - (set(names) if drops else set()), "a plan is gone"
        for other in GOLDEN.keys() - set(names):
            own = {file for file in {*before, *self.now} if file.startswith(f"{OWN[other]}/")}
            changed = {file for file in own if before.get(file) != self.now.get(file)}
            assert not changed, f"of the plan that was left alone: {changed}"
        gone = {file for file in before.keys() - self.now.keys() if file not in wrong}
        if drops:
            may_go = {file for file in gone if file.startswith((f"{OWN[names[0]]}/", f"{VIEWS}/"))}
            assert gone == may_go, "a drop took more than its layer"
        else:
            assert all(map(self.whole, sound)), "a sound part is gone"
            assert repairs or not gone

    def parts(self, names: Iterable[str]) -> set[Part]:
        """The parts with a manifest of the plans `names`."""
        return set[Part]().union(*(committed_parts(self.cache, GOLDEN[name]) for name in names))

    def whole(self, part: Part) -> bool:
        return whole(next(one for one in GOLDEN.values() if part in one.parts), part, self.now)

    def targets(self, name: str) -> list[Path]:
        """The file to damage, if it is there; of `views` the first one."""
        if name == VIEWS:
            return sorted((self.cache / VIEWS).glob("*.json"))[:1]
        return [path for path in [self.cache / name] if path.exists()]
