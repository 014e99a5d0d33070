"""Loaders of other projects on the rows of a cache, over the network: `svp bench remote --rivals`.

Each writes the features of the same images in its own format beside the cache, in its own environment
(see other_loaders.py), and reads one pass of them from there into a folder that is not there yet. Its
rows must equal the cache's before anything is timed. What it has written is deleted afterwards.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...pipeline.bench.baseline import Baseline, open_baseline
from ...pipeline.bench.targets import Target
from ...pipeline.cache import CacheReader
from ...pipeline.display import counted, show
from ...pipeline.errors import ConfigError
from ...pipeline.store import Place, Store, open_store
from ...pipeline.store.in_flight import IN_FLIGHT
from . import other_loaders_script as script
from .other_loaders import RIVALS, parse_rivals

TIMES = {"litdata": 1.5, "mosaicml": 2.0}  # ours is to be so many times faster
OURS = "svp, every row verified"
UPLOADS = 4  # files at once

Pass = tuple[float, float, float]  # seconds to the first batch; images per second, CPU ms


@dataclass
class RemoteComparison:
    """Passes over the features by loader, medians: `Pass`.

    failures  why a loader has no figures, by its title
    """

    passes: dict[str, Pass] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def lines(self, workers: int) -> list[str]:
        """The printable table."""
        head = (
            f"features alone, one pass, shuffled, batches of {script.BATCH}, "
            f"{counted(workers, 'worker')} (svp: threads that keep {IN_FLIGHT} reads in flight), local "
            "folders empty, start of workers not counted; CPU of all processes; svp is faster by: "
            "wall, CPU"
        )
        _, best, least = self.passes[OURS]
        rows = [
            f"  {name:28} first batch {first:6.2f} s  {rate:7.0f} img/s  {cpu:6.2f} ms  "
            f"{best / rate:5.1f} {cpu / least:5.1f}"
            for name, (first, rate, cpu) in self.passes.items()
        ]
        return [head, *rows, *(f"  {name}: not measured: {show(why, 300)}"
                               for name, why in self.failures.items())]  # fmt: skip

    def targets(self) -> list[Target]:
        """Of the rivals that were measured."""
        return [
            Target(f"{OURS} / {name}", self.passes[OURS][1] / self.passes[title][1], ">=", times)
            for name, times in TIMES.items()
            if (title := RIVALS[name].title) in self.passes
        ]


def parse_remote(text: str) -> tuple[str, ...]:
    """Names of `TIMES` in a comma-separated list; `all` stands for all of them."""
    names = tuple(TIMES) if text.strip() == "all" else parse_rivals(text)
    if unable := [name for name in names if name not in TIMES]:
        raise ConfigError(
            f"rivals={unable[0]}: over a network use {' or '.join(TIMES)}; "
            "`svp bench loader` measures the others on local files"
        )
    return names


def require_features(cache: CacheReader) -> None:
    """Raise ConfigError unless other loaders can be measured on this cache."""
    place = show(str(cache.path), 300)
    if cache.plan.thin:
        raise ConfigError(f"{place}: is thin: other loaders are measured on features")
    if not str(cache.path).startswith("s3://"):
        raise ConfigError(f"{place}: other loaders are measured at s3:// alone")


def compare(
    cache: CacheReader,
    rows: NDArray[np.int64],
    names: Sequence[str],
    work: Path,
    ours: Callable[[int], Pass],
    *,
    reps: int,
    workers: int,
    environments: Path | None = None,
) -> RemoteComparison:
    """Measure one pass of each rival and of ours, in turns, `reps` times.

    rows  those of the cache that are read
    ours  a pass of ours over their features; its argument is the repetition
    """
    found, passes = RemoteComparison(), dict[str, list[Pass]]()
    wanted = _save_features(cache, rows, work / "features.npy")
    with _beside(cache.path) as there, ExitStack() as stack:
        rivals: dict[str, tuple[Baseline, str]] = {}
        for package in map(RIVALS.__getitem__, names):
            files, address = work / package.name, there.where(package.name)
            command = [script.__file__, package.name, files, work / "features.npy", workers]
            opened = stack.enter_context(open_baseline(package, command, work, environments))
            if isinstance(opened, str):
                found.failures[package.title] = opened
                continue
            if opened.ask():
                _send(files, there.sub(package.name))
                shutil.rmtree(files)
            if _ask(opened, address, work, check=True).get("digest") != wanted:
                found.failures[package.title] = opened.failure or "its rows are not the cache's"
            else:
                rivals[package.title] = opened, address
        turns = [OURS, *rivals]
        for rep in range(reps):
            for name in turns[:: 1 if rep % 2 == 0 else -1]:
                if name == OURS:
                    passes.setdefault(name, []).append(ours(rep))
                elif answer := _ask(*rivals[name], work, seed=rep):
                    timed = answer["first"], answer["rate"], answer["cpu"]
                    passes.setdefault(name, []).append(timed)
        found.failures |= {name: why for name in rivals if (why := rivals[name][0].failure)}
    for name in turns:
        if name not in found.failures:
            first, rate, cpu = map(median, zip(*passes[name], strict=True))
            found.passes[name] = first, rate, cpu
    return found


def _ask(rival: Baseline, address: str, work: Path, **request: object) -> dict[str, Any]:
    """Its answer about one pass from `address`, read into a new folder."""
    with tempfile.TemporaryDirectory(dir=work, ignore_cleanup_errors=True) as folder:
        return rival.ask(remote=address, local=f"{folder}/local", **request)


def _save_features(cache: CacheReader, rows: NDArray[np.int64], path: Path) -> str:
    """Write the features of `rows` as one .npy file; their digest."""
    shape = len(rows), cache.plan.patches, cache.plan.channels
    features = np.lib.format.open_memmap(path, "w+", np.float16, shape)
    parts = [range(first, min(first + 64, len(rows))) for first in range(0, len(rows), 64)]
    for part in parts:
        cache.gather(rows[part].tolist(), {"features": [features[at] for at in part]})
    return script.digest((part, features[part]) for part in parts)


@contextmanager
def _beside(cache: Place) -> Iterator[Store]:
    """A place beside the cache for files of other loaders, empty before and after."""
    store = open_store(f"{cache}.svp-bench-rivals")
    store.delete_below("")
    try:
        yield store
    finally:
        store.delete_below("")


def _send(files: Path, store: Store) -> None:
    def send(path: Path) -> None:
        store.create(path.relative_to(files).as_posix(), [path.read_bytes()])

    with ThreadPoolExecutor(UPLOADS) as pool:
        list(pool.map(send, [path for path in files.rglob("*") if path.is_file()]))
