"""`svp cache drop` killed before each of its deletions in turn, and what may be done next."""

from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from support.cache_model import build_golden, contents, killed_at, small_plan
from support.cache_views import FILES, GOLDEN, IMAGES, OTHER, OWN, plan_of
from support.cache_work import read_rows, resume
from svp.pipeline.cache import create_cache, verify
from svp.pipeline.cache.exchange import drop_layers
from svp.pipeline.cache.layout import PLAN, VIEWS
from svp.pipeline.errors import ConfigError, PlanMismatchError

# The same layers' names as in `b`, with other bytes.
OTHERWISE = build_golden(small_plan(IMAGES, encoder="dinov2-small", weights="random:1"))


def both(folder: Path) -> Path:
    """A finished cache of both plans, `a` in plan.json."""
    for name, data in (GOLDEN["a"].files | FILES).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    create_cache(folder, GOLDEN["b"].plan, view=True)
    return folder


def plans_in(found: dict[str, bytes]) -> dict[str, str]:
    """Whose plan each plan file is."""
    keys = [key for key in found if key == PLAN or key.startswith(f"{VIEWS}/")]
    return {key: plan_of(key, found[key]) for key in keys}


def take_back(cache: Path, name: str) -> None:
    """The plan is made again: only what the drop has deleted is computed."""
    resume(cache, GOLDEN[name], view=True)
    resume(cache, GOLDEN[OTHER[name]], view=True)
    found = contents(cache)
    plans = plans_in(found)
    assert {*plans.values()} == {"a", "b"}
    assert {key: found[key] for key in found.keys() - plans.keys()} == FILES


def drop_again(cache: Path, name: str) -> None:
    """The same command; nothing may be left for it but to say so."""
    try:
        drop_layers(cache, [OWN[name]])
    except ConfigError as error:
        assert "no such layer" in str(error)
    assert contents(cache) == GOLDEN[OTHER[name]].files


def make_otherwise(cache: Path, name: str) -> None:
    """A layer of the same name, of other weights: no file of the dropped one is taken for its own."""
    if name in plans_in(contents(cache)).values():
        with pytest.raises(PlanMismatchError, match=f"{OWN[name]} is there and made otherwise"):
            resume(cache, OTHERWISE, view=True)
        drop_layers(cache, [OWN[name]])
    resume(cache, OTHERWISE, view=True)
    found = contents(cache)
    assert {key: found[key] for key in OTHERWISE.files if key != PLAN} == {
        key: data for key, data in OTHERWISE.files.items() if key != PLAN
    }
    assert verify(cache, full=True).ok


@pytest.mark.parametrize(
    ("name", "then"),
    [
        ("a", take_back),
        ("b", take_back),
        ("a", drop_again),
        ("b", drop_again),
        ("b", make_otherwise),
    ],
)
def test_a_drop_killed_at_any_deletion_is_finished_or_taken_back(
    name: str,
    then: Callable[[Path, str], None],
    fast_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    for number in count():
        cache = both(fast_path / str(number))
        killed = killed_at(f"delete:{number}", partial(drop_layers, cache, [OWN[name]]))
        found, other = contents(cache), OTHER[name]
        changed = {key for key in GOLDEN[other].files if GOLDEN[other].differs(key, found)}
        assert changed <= {PLAN}, "a drop has changed files of the plan that stays"
        for view, owner in plans_in(found).items():
            read_rows(cache, GOLDEN[owner], found, view)
        then(cache, name)
        if not killed:
            break
    record_property("tried", number)
    assert number > 10
