"""Races of writers with unequal bytes over one shard of a cache.

`python -m support.races --place s3://tests/races --races 1000` (an object server of its own unless
AWS_ENDPOINT_URL is set) or `--place folder`. Each race is a shard. Three processes write it with the
cache's own writer, each with features of its own, in half of the races with scores of its own too,
so that none may win all files; in half of the races one of them stops somewhere, as a killed one
does. A race is sound if no layer has a manifest, or if a full check finds no fault in those that
have. Where a layer has none, a fourth writer commits, after the processes have ended.
"""

import argparse
import multiprocessing
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.synchronize import Barrier
from threading import Lock
from typing import Any

import numpy as np

from support.object_server import ObjectServer
from support.small_cache import make_plan, make_row
from svp.pipeline.cache import Plan, create_cache, missing_shards, read_committed, write_shard
from svp.pipeline.cache.verify import verify_shard
from svp.pipeline.records import ImageRow
from svp.pipeline.store import OtherBytesError, RetryPolicy, Store, open_store, this_writer

WRITERS = 3
POLICY = RetryPolicy(patience=30, first_wait=0.01, longest_wait=0.1, stall=5)


@dataclass
class Result:
    """Outcomes of the races.

    committed, mixed, empty  races by what was there afterwards; mixed: manifest not of the files;
                             empty: a layer without a manifest
    unexplained  writers that neither committed nor stopped nor were told of both makers
    recovered    empty races that the next run committed
    outcomes     writers by outcome
    """

    races: int = 0
    committed: int = 0
    mixed: int = 0
    empty: int = 0
    recovered: int = 0
    unexplained: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)


class StoppedError(BaseException):
    """The writer is dead."""


class Stopping:
    """A store in which a writer dies before it makes its file number `left`."""

    def __init__(self, store: Store, left: int) -> None:
        self._store, self._left, self._lock = store, left, Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def create(self, *arguments: Any, **names: Any) -> Any:
        with self._lock:
            self._left -= 1
            if self._left < 0:
                raise StoppedError
        return self._store.create(*arguments, **names)

    def replace(self, *arguments: Any, **names: Any) -> Any:
        with self._lock:
            if self._left <= 0:
                raise StoppedError
        return self._store.replace(*arguments, **names)


def rows(plan: Plan, race: int, writer: int) -> list[ImageRow]:
    """The shard's rows as the GPU of a writer computes them."""
    made = []
    for image in plan.shard(race):
        row = make_row(plan, image)
        assert row.superpixels is not None and row.patches is not None
        found = row.superpixels
        if race // 2 % 2:
            scores = found.predicted_iou + np.float32(writer)
            found = replace(found, predicted_iou=scores)
        made.append(replace(row, superpixels=found, patches=row.patches + np.float16(writer)))
    return made


def write(store: Store, plan: Plan, race: int, writer: int, stop: int | None) -> str:
    """One writer's attempt; its outcome in one word, or the text that explains the refusal."""
    who = this_writer(f"GPU kind {writer}")
    place: Any = store if stop is None else Stopping(store, stop)
    try:
        write_shard(place, plan, race, rows(plan, race, writer), {}, who=who)
        return "committed"
    except StoppedError:
        return "stopped"
    except OtherBytesError as error:
        told = error.who == who and "GPU kind" in error.maker and error.maker != who
        return "other" if told and error.maker in str(error) else f"unexplained: {error}"


def stops(race: int, files: int) -> tuple[int, int] | None:
    """(writer, file before which it stops) in every second race."""
    drawn = random.Random(race)
    return (drawn.randrange(WRITERS), drawn.randrange(files)) if race % 2 else None


def compete(place: str, writer: int, races: int, start: Barrier, out: str) -> None:
    """The races of one writer: a process of its own."""
    store, drawn = open_store(place, POLICY), random.Random(writer)
    plan = Plan.load(store)
    files = len(plan.arrays) + len(plan.layers)
    with open(out, "w", encoding="utf-8") as file:
        for race in range(races):
            stop = stops(race, files)
            start.wait()
            time.sleep(drawn.random() * 0.002)
            mine = stop[1] if stop and stop[0] == writer else None
            file.write(f"{write(store, plan, race, writer, mine)!r}\n")


def run(place: str, races: int) -> Result:
    """All races in `place`, which is empty."""
    result, context = Result(races), multiprocessing.get_context("spawn")
    start, store = context.Barrier(WRITERS), open_store(place, POLICY)
    plan = make_plan(images=4 * races)
    assert not any(store.sizes()), f"{place} is not empty"
    create_cache(store, plan)
    with tempfile.TemporaryDirectory() as folder:
        names = [f"{folder}/{writer}" for writer in range(WRITERS)]
        processes = [
            context.Process(target=compete, args=(place, writer, races, start, names[writer]))
            for writer in range(WRITERS)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0
        for name in names:
            with open(name, encoding="utf-8") as file:
                lines = file.read().splitlines()
            assert len(lines) == races
            result.outcomes.update(line.strip("'").split(":")[0] for line in lines)
    result.unexplained = result.outcomes["unexplained"]
    missing = missing_shards(store, plan, read_committed(store, plan))
    for race in range(races):
        if verify_shard(store, race, full=True).problems:
            result.mixed += 1
        elif race not in missing:
            result.committed += 1
        else:
            result.empty += 1
            layers = missing[race]
            write_shard(store, plan, race, rows(plan, race, WRITERS), {}, layers)
            result.recovered += not verify_shard(store, race, full=True).problems
    assert not missing_shards(store, plan, read_committed(store, plan))
    return result


@contextmanager
def served(place: str) -> Iterator[None]:
    """An object server for `place` if it is an address and the environment has no endpoint."""
    if not place.startswith("s3://") or "AWS_ENDPOINT_URL" in os.environ:
        yield
        return
    with ObjectServer() as server:
        os.environ.update(server.environment)
        yield


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--place", required=True)
    parser.add_argument("--races", type=int, default=1000)
    given = parser.parse_args()
    with served(given.place):
        print(run(given.place, given.races))
