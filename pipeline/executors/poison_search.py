"""Find the images that crash a worker by bisecting their shard.

Probes compute a part of the shard and discard the result; a part that fails is halved. An image is
quarantined only after it failed twice on its own, so that a worker killed from outside does not
quarantine an image. Invariant: only images that failed alone are quarantined.
"""

from dataclasses import dataclass, field

from .base import Job, Reason

MAX_POISON = 4  # more in one shard means the machine or the recipe is broken, not the images
FAILURES_TO_QUARANTINE = 2  # of one image on its own


@dataclass(slots=True)
class PoisonSearch:
    """The search in one shard of `rows` images.

    found     rows to quarantine, with the reason
    failures  by row, of probes of that row alone
    pending   probes without a result yet
    """

    shard: int
    rows: int
    found: dict[int, Reason] = field(default_factory=dict)
    failures: dict[int, int] = field(default_factory=dict)
    pending: int = 0

    def start(self) -> list[Job]:
        """The first probes."""
        return self._split(0, self.rows)

    def passed(self) -> list[Job]:
        """Record a probe that succeeded; no further probe follows from it."""
        self.pending -= 1
        return []

    def failed(self, job: Job, reason: Reason) -> list[Job]:
        """Record a probe that failed; returns the probes to run next."""
        assert job.rows is not None
        self.pending -= 1
        first, last = job.rows
        if last - first > 1:
            return self._split(first, last)
        self.failures[first] = self.failures.get(first, 0) + 1
        if self.failures[first] < FAILURES_TO_QUARANTINE:
            return self._probe((first, last))
        self.found[first] = reason
        return []

    @property
    def over(self) -> bool:
        """Whether no probe is pending, or so many images failed that more probes are useless."""
        return self.pending == 0 or self.too_many_failures

    @property
    def too_many_failures(self) -> bool:
        """Whether more than half of the images, or more than MAX_POISON, were found.

        Then the machine or the recipe is at fault, not the images.
        """
        return len(self.found) > max(1, min(MAX_POISON, self.rows // 2))

    def result(self) -> Job:
        """The job that commits the shard without the images found, if any."""
        return Job(self.shard, poison=tuple(sorted(self.found.items())))

    def _split(self, first: int, last: int) -> list[Job]:
        middle = (first + last) // 2
        return self._probe(
            *(part for part in ((first, middle), (middle, last)) if part[1] > part[0])
        )

    def _probe(self, *parts: tuple[int, int]) -> list[Job]:
        self.pending += len(parts)
        return [Job(self.shard, rows=part) for part in parts]
