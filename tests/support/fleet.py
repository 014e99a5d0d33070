"""Processes that join one cache, forked from the test."""

import multiprocessing
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from support import fake_run
from svp.pipeline.errors import SvpError
from svp.pipeline.precompute.run import RunOptions

FORKS = multiprocessing.get_context("fork")  # the imports are done


@dataclass
class Fleet:
    """Members of one cache; `told` is what `fake_run` is told."""

    cache: Path
    images: Path
    told: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.members: list[multiprocessing.context.ForkProcess] = []
        self._said: SimpleQueue[dict[str, object]] = FORKS.SimpleQueue()

    def join(self, count: int, **told: object) -> None:
        """Start that many processes."""
        for _ in range(count):
            member = FORKS.Process(
                target=_join, args=(self.cache, self.images, self.told | told, self._said)
            )
            member.start()
            self.members.append(member)

    def until(self, reached: Callable[[], bool]) -> None:
        """Wait until something is so, or until no process is left."""
        while not reached() and any(member.is_alive() for member in self.members):
            time.sleep(0.002)

    def committed(self) -> int:
        """Number of shards of which the last layer is committed."""
        return len([*self.cache.glob("features/*/manifest/*.json")])

    def kill(self, count: int, dice: random.Random) -> int:
        """kill -9 that many of them; the number of those that were at work."""
        alive = [member for member in self.members if member.is_alive()]
        chosen = dice.sample(alive, min(count, len(alive)))
        for member in chosen:
            member.kill()
            member.join()
            self.members.remove(member)
        return len(chosen)

    def end(self) -> list[tuple[int, dict[str, object]]]:
        """Exit code of each process that is left, with the reports in the order of their ends."""
        for member in self.members:
            member.join()
        codes = [member.exitcode or 0 for member in self.members]
        said = []
        while not self._said.empty():
            said.append(self._said.get())
        return [*zip(codes, said, strict=False)]


def _join(
    cache: Path, images: Path, told: dict[str, object], said: "SimpleQueue[dict[str, object]]"
) -> None:
    fake_run.install(fake_run.Forever)
    options = RunOptions(workers=0, join=True, hint="svp precompute --join")
    try:
        report = fake_run.run(cache, images, options, told=told)
    except SvpError as error:
        said.put({"error": str(error)})
        os._exit(error.exit_code)
    said.put(report.to_json())
    os._exit(report.exit_code)
