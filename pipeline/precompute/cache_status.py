"""`svp status`: progress of a cache from its manifests, whatever made them.

Every executor, a static split and processes that join commit shards by manifests, so these say how
far a cache is and how fast; claims say which processes are at work (of those that join), and
`logs/status.json` what became of the latest run.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from ..cache.index import is_complete
from ..cache.layout import PLAN, holds_cache
from ..cache.manifest import commits
from ..cache.plan import all_plans
from ..display import Report, counted, duration, show
from ..errors import MissingError
from ..store import Place, open_store
from .claims import PLANNING, claims_store, read_claims
from .progress import LOST_S, WINDOW_S, read_status, status_line

LISTED = 20  # processes, and abandoned shards
WAIT_S = 2.0  # at least, between two looks
SHARE = 20  # of the time between two looks, what a look may take


@dataclass(frozen=True)
class AtWork:
    """A process that has claimed a shard; times in seconds, by its machine's clock."""

    shard: int
    host: str
    pid: int
    for_s: float
    renewed_s: float


@dataclass(frozen=True)
class StatusReport(Report):
    """Progress of a cache.

    layers        committed shards of each layer
    done_shards   shards that every layer has; `done_images` are theirs
    computed      images of these, and of shards under way in the latest run, while it runs
    images_per_s  over the last minutes, of all processes; None: unknown
    newest_s      seconds since the newest commit; None: none yet
    abandoned     shards that no process that joins tries any more, with the cause
    run           the latest run, as text; empty: none
    state         of the latest run: running, finished, stopped, or lost (its process is gone)
    """

    cache: str
    cache_id: str
    shards: int
    done_shards: int
    images: int
    done_images: int
    computed: int
    layers: dict[str, int]
    complete: bool
    images_per_s: float | None
    eta_s: float | None
    newest_s: float | None
    at_work: tuple[AtWork, ...]
    abandoned: dict[int, str]
    run: str
    state: str

    @property
    def over(self) -> bool:
        """Whether nothing is left that a process would do, or no process is left."""
        left = self.shards - self.done_shards
        return self.complete or self.deserted or len(self.abandoned) == left > 0

    @property
    def deserted(self) -> bool:
        """Whether the latest run ended before the cache was complete and none is seen to work on it."""
        silent = self.newest_s is None or self.newest_s > LOST_S
        return self.state in ("lost", "stopped") and silent and not self.at_work

    @property
    def exit_code(self) -> int:
        """0, or 1 if the cache is not complete and none works on it."""
        return int(self.over and not self.complete)

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    def summary(self) -> str:
        """The counts in one printable line."""
        parts = [
            f"{self.done_shards:,}/{counted(self.shards, 'shard')}",
            f"{self.computed:,}/{counted(self.images, 'image')}",
        ]
        if self.complete:
            return "  ".join([*parts, "complete"])
        if self.images_per_s is not None:
            parts += [f"{self.images_per_s:.1f}/s", f"ETA {duration(self.eta_s)}"]
        if self.newest_s is not None:
            parts.append(f"newest {duration(self.newest_s)} ago")
        if self.at_work:
            parts.append(f"{counted(len(self.at_work), 'shard')} claimed")
        if self.state in ("lost", "stopped"):
            parts.append(f"latest run {self.state}")
        return "  ".join(parts)

    def lines(self) -> list[str]:
        lines = [f"{show(self.cache, 300)}: cache {self.cache_id[:12]}", self.summary()]
        if len(set(self.layers.values())) > 1:
            lines += [f"{folder}: {counted(n, 'shard')}" for folder, n in self.layers.items()]
        lines += _listed([
            f"shard {one.shard}: {show(one.host)}, process {one.pid}, for {duration(one.for_s)}, "
            f"renewed {duration(one.renewed_s)} ago"
            for one in self.at_work
        ])  # fmt: skip
        lines += _listed([
            f"shard {shard} abandoned: {show(why, 300)}" for shard, why in self.abandoned.items()
        ])  # fmt: skip
        return [*lines, self.run] if self.run else lines


@dataclass
class Watch:
    """Looks at one cache."""

    cache: Place

    def look(self) -> StatusReport:
        """Progress by now. Raises MissingError, CacheError."""
        if not holds_cache(self.cache):
            planner = read_claims(claims_store(self.cache)).get(PLANNING)
            if planner:
                raise MissingError(
                    f"{show(open_store(self.cache).where(), 300)}: no plan yet: {show(planner.host)}, process "
                    f"{planner.pid}, reads the images to make it"
                )
        plans = all_plans(self.cache)
        main, now = plans[PLAN], time.time()
        layers = {layer.folder: layer for plan in plans.values() for layer in plan.layers}
        there = {folder: commits(self.cache, one) for folder, one in layers.items()}
        done = set(range(main.num_shards)).intersection(*there.values())
        times = {s: max(found[s].made for found in there.values()) for s in done}
        images = {shard: len(main.layers[0].rows(shard)) for shard in done}
        rate = _rate(images, times, now)

        at_work: list[AtWork] = []
        abandoned: dict[int, str] = {}
        for plan in plans.values():
            for name, claim in read_claims(claims_store(self.cache, plan)).items():
                if not name.isdecimal() or int(name) in done:
                    continue
                if claim.holder:
                    since, renewed = _age(claim.since, now), _age(claim.renewed, now)
                    at_work.append(AtWork(int(name), claim.host, claim.pid, since, renewed))
                elif claim.abandoned:
                    abandoned[int(name)] = claim.abandoned
        latest = read_status(self.cache)
        computed = sum(images.values())
        if latest and latest["state"] == "running":
            computed = min(len(main.images), max(computed, int(latest.get("images", 0))))
            rate = rate or latest.get("images_per_s") or None
        left = len(main.images) - computed
        return StatusReport(
            cache=open_store(self.cache).where(),
            cache_id=main.id,
            shards=main.num_shards,
            done_shards=len(done),
            images=len(main.images),
            done_images=sum(images.values()),
            computed=computed,
            layers={folder: len(shards) for folder, shards in there.items()},
            complete=all(is_complete(self.cache, plan) for plan in plans.values()),
            images_per_s=rate,
            eta_s=left / rate if rate else None,
            newest_s=max(0.0, now - max(times.values())) if done else None,
            at_work=tuple(sorted(at_work, key=lambda one: one.shard)),
            abandoned=dict(sorted(abandoned.items())),
            run=status_line(latest) if latest else "",
            state=str(latest["state"]) if latest else "",
        )

    def looks(self) -> Iterator[StatusReport]:
        """Reports until nothing is left to do, with a pause after each."""
        while True:
            began = time.monotonic()
            found = self.look()
            yield found
            if found.over:
                return
            time.sleep(max(WAIT_S, SHARE * (time.monotonic() - began)))


def _rate(images: Mapping[int, int], times: Mapping[int, float], now: float) -> float | None:
    """Images per second over the last `WINDOW_S`; None without two commits in it."""
    recent = sorted((t, images[s]) for s, t in times.items() if t >= now - WINDOW_S)
    if len(recent) < 2 or now <= recent[0][0]:
        return None
    # The images of the first commit were computed before it.
    return sum(count for _, count in recent[1:]) / (now - recent[0][0])


def _age(time_of_claim: str, now: float) -> float:
    try:
        return max(0.0, now - datetime.fromisoformat(time_of_claim).timestamp())
    except ValueError:
        return 0.0


def _listed(lines: Sequence[str]) -> list[str]:
    more = [f"... and {len(lines) - LISTED:,} more"] if len(lines) > LISTED else []
    return [*lines[:LISTED], *more]
