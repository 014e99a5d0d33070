"""Search for the images of a shard that kill their worker.

A shard that failed too often is bisected by probes: parts of it are computed and thrown away. A
part that fails is halved; a single image must fail twice, so that a worker killed from outside
accuses nobody. Invariant: only images that failed alone are ever accused.
"""

from dataclasses import dataclass, field

from .base import Job, Reason

MAX_POISON = 4  # more in one shard means the machine or the recipe is broken, not the images
CONFIRM = 2  # failures of one image, alone, before it is accused


@dataclass(slots=True)
class Hunt:
    """The search in one shard of `rows` images. `open` counts probes not yet answered."""

    shard: int
    rows: int
    found: dict[int, Reason] = field(default_factory=dict)
    strikes: dict[int, int] = field(default_factory=dict)
    open: int = 0

    def start(self) -> list[Job]:
        """The first probes."""
        return self._split(0, self.rows)

    def passed(self) -> list[Job]:
        """A probe came through."""
        self.open -= 1
        return []

    def failed(self, job: Job, reason: Reason) -> list[Job]:
        """A probe failed: what to try next."""
        assert job.rows is not None
        self.open -= 1
        first, last = job.rows
        if last - first > 1:
            return self._split(first, last)
        self.strikes[first] = self.strikes.get(first, 0) + 1
        if self.strikes[first] < CONFIRM:
            return self._probe((first, last))
        self.found[first] = reason
        return []

    @property
    def over(self) -> bool:
        """Nothing left to ask, or enough known to give up."""
        return self.open == 0 or self.hopeless

    @property
    def hopeless(self) -> bool:
        """Too many culprits to be the images' fault: more than half of them, or MAX_POISON."""
        return len(self.found) > max(1, min(MAX_POISON, self.rows // 2))

    def verdict(self) -> Job:
        """The job that commits the shard without its culprits (maybe none were found)."""
        return Job(self.shard, poison=tuple(sorted(self.found.items())))

    def _split(self, first: int, last: int) -> list[Job]:
        middle = (first + last) // 2
        return self._probe(
            *(part for part in ((first, middle), (middle, last)) if part[1] > part[0])
        )

    def _probe(self, *parts: tuple[int, int]) -> list[Job]:
        self.open += len(parts)
        return [Job(self.shard, rows=part) for part in parts]
