"""Outcome of a `svp precompute` run, as people and programs read it."""

from dataclasses import asdict, dataclass

from ..cache.layout import LOGS
from ..display import Report, counted


@dataclass(frozen=True, slots=True)
class PrecomputeReport(Report):
    """Outcome of a run and state of the cache.

    computed     images computed by this run, good or not
    good         images in the cache, all runs together
    failures     images not in the cache: reason -> how many
    abandoned    shards that exhausted their retries in this run, with the cause
    complete     whether every shard is committed
    failed       True if more images are missing than `max_failures` allows, if not one is good, or
                 if shards were abandoned
    next         the command that uses the finished cache; empty: none
    """

    cache: str
    cache_id: str
    images: int
    computed: int
    good: int
    failures: dict[str, int]
    abandoned: dict[int, str]
    superpixels: int
    fallbacks: int
    complete: bool
    failed: bool
    seconds: float
    stage_seconds: dict[str, float]
    next: str = ""

    @property
    def exit_code(self) -> int:
        """Exit code of the command."""
        return int(self.failed)

    def to_json(self) -> dict[str, object]:
        # Readers of `--json` know the abandoned shards by an older word.
        older = {"abandoned": "parked"}
        values = {older.get(name, name): value for name, value in asdict(self).items()}
        return values | {"exit_code": self.exit_code}

    def lines(self) -> list[str]:
        rate = f" ({self.computed / self.seconds:.1f}/s)" if self.computed else ""
        mean = self.superpixels / self.good if self.good else 0.0
        state = "complete" if self.complete else "not complete"
        there = f"{self.good} of {self.images} in the cache"
        lines = [
            f"{self.cache}: cache {self.cache_id[:12]}, {state}",
            f"{counted(self.computed, 'image')} computed in {self.seconds:.1f} s{rate}, {there}",
            (
                f"{mean:.1f} superpixels per image, {counted(self.fallbacks, 'image')} fell back to "
                "one full-image superpixel"
            ),
        ]
        lines += [f"quarantined: {n} x {why}" for why, n in sorted(self.failures.items())]
        if self.failures:
            lines.append(f"see {self.cache}/{LOGS}/failures.jsonl; retry with --retry-quarantined")
        lines += [f"shard {s} abandoned: {why}" for s, why in sorted(self.abandoned.items())]
        return [*lines, *([f"next: {self.next}"] if self.next else [])]
