"""Data loaders of other projects on the rows of a cache, for `svp bench loader --rivals`.

Each is measured in its own environment and process, in turns with ours, on features alone: what all
of them can store. Before it is timed, every row that it gives must equal the cache's.
"""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import psutil
from torch import Tensor
from torch.utils.data import DataLoader

from ...pipeline.bench.baseline import MOSAICML, Baseline, Package, open_baseline
from ...pipeline.bench.targets import Target
from ...pipeline.cache import CacheReader
from ...pipeline.display import counted, show
from ...pipeline.errors import ConfigError
from ...pipeline.store import Place
from ..data.cache_dataset import CacheDataset
from . import other_loaders_script as script

RIVALS = {
    package.name: package
    for package in (
        Package("litdata", "litdata StreamingDataLoader", "litdata==0.2.76"),
        MOSAICML,
        Package("webdataset", "webdataset WebLoader", "webdataset==1.0.2"),
        Package("lance", "Lance take", "pylance==14.0.2"),
        Package("ray", "Ray Data iter_batches", "ray[data]==2.60.0"),
    )
}
TIMES = {"litdata": 5.0, "mosaicml": 4.0}  # ours is to be so many times faster
VERIFIED, UNVERIFIED = "svp, every row verified", "svp, no verify"
DATASET = "torch DataLoader over svp.CacheDataset"
SECONDS = 2.0  # timed of every round, at least

Stream = Callable[[CacheReader], Iterable[Tensor]]  # endless batches of features


@dataclass
class Comparison:
    """Best rate (images per second) and least CPU (ms per image, all processes) by loader.

    failures  why a loader has no figures, by its title
    load      one-minute load average before and after
    """

    rates: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    load: tuple[float, float] = (0.0, 0.0)

    def lines(self, threads: int) -> list[str]:
        """The printable table."""
        head = (
            f"features alone, shuffled, batches of {script.BATCH}, "
            f"{counted(threads, 'thread')} or worker processes, load average "
            f"{self.load[0]:.1f} to {self.load[1]:.1f}; CPU of all processes; svp verified is "
            "faster by: wall, CPU"
        )
        best, least = self.rates[VERIFIED], self.cpu[VERIFIED]
        rows = [
            f"  {name:46} {rate:8.0f} img/s  {self.cpu[name]:8.2f} ms  "
            f"{best / rate:6.1f} {self.cpu[name] / least:6.1f}"
            for name, rate in self.rates.items()
        ]
        return [head, *rows, *(f"  {name}: not measured: {show(why, 300)}"
                               for name, why in self.failures.items())]  # fmt: skip

    def targets(self) -> list[Target]:
        """Of the rivals that have one and were measured."""
        return [
            Target(f"{VERIFIED} / {name}", self.rates[VERIFIED] / self.rates[title], ">=", times)
            for name, times in TIMES.items()
            if (title := RIVALS[name].title) in self.rates
        ]

    def note(self, name: str, rate: float, cpu: float) -> None:
        """Keep the better of two rounds."""
        self.rates[name] = max(self.rates.get(name, 0.0), rate)
        self.cpu[name] = min(self.cpu.get(name, cpu), cpu)


def parse_rivals(text: str) -> tuple[str, ...]:
    """Names of `RIVALS` in a comma-separated list; `all` stands for all of them."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if unknown := [name for name in names if name not in (*RIVALS, "all")]:
        raise ConfigError(f"rivals={show(unknown[0])}: use any of {', '.join(RIVALS)}, or all")
    return tuple(RIVALS) if "all" in names else names


def compare(
    cache: CacheReader,
    names: Sequence[str],
    work: Path,
    *,
    reps: int,
    threads: int,
    stream: Callable[[CacheReader, int], Iterable[Tensor]],
    environments: Path | None = None,
) -> Comparison:
    """Measure the rivals and ours in turns.

    stream  our batches of features of a cache in random order, by a number of threads
    """
    found, before = Comparison(), os.getloadavg()[0]
    features = np.stack([cache.features(row) for row in range(len(cache))])
    np.save(work / "features.npy", features)
    wanted = script.digest([(np.arange(len(features)), features)])
    del features
    quiet = CacheReader(cache.path, "off")
    ours: dict[str, Callable[[], tuple[float, float]]] = {
        VERIFIED: lambda: _timed(lambda: stream(cache, threads)),
        UNVERIFIED: lambda: _timed(lambda: stream(quiet, threads)),
        DATASET: lambda: _timed_workers(cache.path, threads),
    }
    with ExitStack() as stack:
        rivals: dict[str, Baseline] = {}
        for package in map(RIVALS.__getitem__, names):
            command = [script.__file__, package.name, work / package.name, work / "features.npy"]
            opened = stack.enter_context(
                open_baseline(package, [*command, threads], work, environments)
            )
            if isinstance(opened, str):
                found.failures[package.title] = opened
            elif opened.ask(check=True).get("digest") != wanted:
                found.failures[package.title] = opened.failure or "its rows are not the cache's"
            else:
                rivals[package.title] = opened
        turns: list[str] = [*ours, *rivals]
        for rep in range(reps):
            for name in turns[:: 1 if rep % 2 == 0 else -1]:
                if name in ours:
                    found.note(name, *ours[name]())
                elif answer := rivals[name].ask(seed=rep, seconds=SECONDS):
                    found.note(name, answer["rate"], answer["cpu"])
        failed = {title: one.failure for title, one in rivals.items() if one.failure}
    found.failures |= failed
    order = [name for name in turns if name in found.rates and name not in failed]
    found.rates = {name: found.rates[name] for name in order}
    found.cpu = {name: found.cpu[name] for name in order}
    found.load = before, os.getloadavg()[0]
    return found


def _timed(batches: Callable[[], Iterable[Tensor]]) -> tuple[float, float]:
    """Rate and CPU of an endless stream of this process, start-up not counted."""
    images, stream = 0, iter(batches())
    for _ in range(script.START):
        next(stream)
    began, busy = time.perf_counter(), time.process_time()
    while (wall := time.perf_counter() - began) < SECONDS:
        images += len(next(stream))
    return images / wall, 1000 * (time.process_time() - busy) / images


def _timed_workers(cache: Place, workers: int) -> tuple[float, float]:
    """The same of `svp.CacheDataset` in PyTorch's loader with worker processes.

    Forked ones would hold the pipes of the other loaders open.
    """
    data = CacheDataset(cache, ["features"], verify="always")
    loader = DataLoader(
        data, script.BATCH, shuffle=True, num_workers=workers, collate_fn=CacheDataset.collate,
        persistent_workers=True, multiprocessing_context="spawn",
    )  # fmt: skip

    def epochs() -> Iterable[Iterable[script.Batch]]:
        while True:
            yield ((batch["image_id"], batch["features"]) for batch in loader)

    answer = script.measure(iter(epochs()), len(data), SECONDS, _own_cpu_seconds)
    return answer["rate"], answer["cpu"]


def _own_cpu_seconds() -> float:
    """CPU of this process and its loader's workers: other baselines are children of it too."""
    total = time.process_time()
    for child in active_children():
        times = psutil.Process(child.pid).cpu_times()
        total += float(times.user + times.system)
    return total
