"""Races of writers with unequal bytes over one shard: files, then the manifest that names them.

`python -m support.races --place s3://tests/races --races 1000` (an object server of its own unless
AWS_ENDPOINT_URL is set) or `--place folder`. Three processes compute the same shard, each with bytes
of its own; in half of the races one of them stops somewhere, as a killed one does, and in half each
writes the files in an order of its own, so that none may win all of them. A race is sound if there
is no manifest, or if every file is the one that the manifest names. Where there is none, a fourth
writer clears the leftovers and commits.
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
from dataclasses import dataclass, field
from multiprocessing.synchronize import Barrier

import xxhash

from support.object_server import ObjectServer
from svp.pipeline.io.json_files import canonical, parse_json
from svp.pipeline.store import OtherBytesError, RetryPolicy, Store, open_store

WRITERS, FILES, SIZE = 3, 4, 2000
POLICY = RetryPolicy(patience=30, first_wait=0.01, longest_wait=0.1, stall=5)


@dataclass
class Result:
    """Outcomes of the races.

    committed, mixed, empty  races by what was there afterwards; mixed: manifest not of the files
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


def write(store: Store, race: int, writer: int, stop: int | None) -> str:
    """One writer's attempt; its outcome in one word, or the text that explains the refusal."""
    shard, who = store.sub(f"r{race}"), f"node{writer}, GPU kind {writer}"
    entries = {}
    try:
        for done, number in enumerate(order(race, writer)):
            if stop == done:
                return "stopped"
            data = bytes([writer]) * (SIZE + number)
            entries[f"array{number}/c/0"] = shard.create(f"array{number}/c/0", [data], who=who).xxh3
        if stop == FILES:
            return "stopped"
        made = shard.create("manifest/0.json", [canonical(entries)], who=who).made
        return "committed" if made else "same"
    except OtherBytesError as error:
        told = error.who == who and error.maker.startswith("node") and error.maker != who
        return "other" if told and error.maker in str(error) else f"unexplained: {error}"


def sound(store: Store, race: int) -> bool | None:
    """Whether the files are those of the manifest; None without a manifest."""
    shard = store.sub(f"r{race}")
    if "manifest/0.json" not in dict(shard.sizes()):
        return None
    entries = parse_json(shard.read("manifest/0.json", 1 << 16), "manifest")
    assert isinstance(entries, dict)
    return all(
        xxhash.xxh3_64_hexdigest(shard.read(key, 1 << 20)) == digest
        for key, digest in entries.items()
    )


def order(race: int, writer: int) -> list[int]:
    """Files in the order in which a writer makes them."""
    files = list(range(FILES))
    if race // 2 % 2:
        random.Random(race * WRITERS + writer).shuffle(files)
    return files


def stops(race: int) -> tuple[int, int] | None:
    """(writer, file before which it stops) in every second race."""
    drawn = random.Random(race)
    return (drawn.randrange(WRITERS), drawn.randrange(FILES + 1)) if race % 2 else None


def compete(place: str, writer: int, races: int, start: Barrier, out: str) -> None:
    """The races of one writer: a process of its own."""
    store, drawn = open_store(place, POLICY), random.Random(writer)
    with open(out, "w", encoding="utf-8") as file:
        for race in range(races):
            stop = stops(race)
            start.wait()
            time.sleep(drawn.random() * 0.002)
            mine = stop[1] if stop and stop[0] == writer else None
            file.write(f"{write(store, race, writer, mine)!r}\n")


def run(place: str, races: int) -> Result:
    """All races in `place`, which is empty."""
    result, context = Result(races), multiprocessing.get_context("spawn")
    start = context.Barrier(WRITERS)
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
    store = open_store(place, POLICY)
    for race in range(races):
        match sound(store, race):
            case True:
                result.committed += 1
            case False:
                result.mixed += 1
            case None:
                result.empty += 1
                shard = store.sub(f"r{race}")
                for key, _ in list(shard.sizes()):
                    shard.delete(key)
                write(store, race, WRITERS, None)
                result.recovered += sound(store, race) is True
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
