"""`svp bench store`: read, write and open times of a cache, against baselines in the same run.

Method: every file is freshly written with write() in this run (a file dirtied through mmap reads up
to three times slower); each pass opens its dataset inside the timer, copies every image into a
reused buffer and touches it; readers take turns, MosaicML's process too, and alternate direction;
best of `reps`; one thread. Only ratios within a run mean something.
"""

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cache.plan import SHARD_SIZE
from ..cache.reader import CacheReader, Verify
from ..display import counted
from ..io.atomic import make_folders
from ..io.binary import empty
from .baseline import MOSAICML, Baseline, Rates, keep_best, open_baseline
from .synthetic_cache import bench_features, make_cache, open_times, write_npy
from .targets import Target, TargetReport

log = logging.getLogger(__name__)

Pass = Callable[[Sequence[int], NDArray[np.float16]], None]
SEQ, SHUFFLED = "seq", "shuffled"
SCRIPT = Path(__file__).with_name("mosaic_baseline_script.py")
NOT_ASKED = "use --mosaic (makes its own environment)"


@dataclass
class StoreBench(TargetReport):
    """The outcome: best images per second by reader and order, targets, and what was left out."""

    images: int
    shape: tuple[int, int]
    rates: Rates

    def lines(self) -> list[str]:
        """The printable report."""
        head = (
            f"{counted(self.images, 'image')} of {self.shape[0]}x{self.shape[1]} float16, one "
            "thread"
        )
        rows = [
            f"  {name:28} " + "  ".join(f"{order} {rate:8.0f} img/s" for order, rate in by.items())
            for name, by in self.rates.items()
        ]
        return [head, *rows, *(target.line() for target in self.targets), *self.notes]


def run(
    *,
    images: int = 384,
    shape: tuple[int, int] = (576, 1024),
    reps: int = 5,
    shards: int = 1849,
    mosaic: bool = False,
    folder: Path | None = None,
) -> StoreBench:
    """Measure everything; `mosaic` makes (or reuses) a virtual environment for MosaicML.

    folder: where the files go (default: the temp folder); twice `images` x `shape` bytes are used.
    """
    with _workspace(folder) as work:
        features = bench_features(images, shape)
        log.info(f"writing {counted(images, 'image')} twice")
        write_rate, write_cost = make_cache(work / "cache", features)
        write_npy(work / "features.npy", features)
        del features
        passes = _passes(work)
        log.info(f"reading: {counted(len(passes), 'reader')}, best of {reps}")
        script = [SCRIPT, work / "mds", work / "features.npy"]
        opened = open_baseline(MOSAICML, script, work) if mosaic else nullcontext(NOT_ASKED)
        with opened as baseline:
            bench = StoreBench(images, shape, measure(passes, images, shape, reps, baseline))
        bench.targets = _reader_targets(bench.rates)
        bench.targets.append(Target("write, per process", write_rate, ">=", 400, "img/s"))
        bench.notes.append(f"writing costs {write_cost:.2f} ms of CPU per image")
        log.info(f"opening a cache of {counted(shards, 'shard')}")
        seconds = open_times(work / "wide", shards)
        bench.targets.append(
            Target(f"open a cache of {counted(shards, 'shard')}", seconds[0], "<=", 0.5, "s")
        )
        bench.targets.append(
            Target(f"rerun check of {counted(shards, 'shard')}", seconds[1], "<=", 2.0, "s")
        )
        _add_mosaic(bench, baseline if isinstance(baseline, str) else baseline.failure)
    return bench


def measure(
    passes: dict[str, Pass],
    images: int,
    shape: tuple[int, int],
    reps: int,
    baseline: Baseline | str = NOT_ASKED,
) -> Rates:
    """Best images per second of each pass, in sequence and block-shuffled, and of the baseline."""
    orders = {SEQ: list(range(images)), SHUFFLED: block_shuffle(images)}
    out = empty(shape, np.float16)
    rates = {name: dict.fromkeys(orders, 0.0) for name in passes}
    for rep in range(reps):
        names = list(passes)[:: 1 if rep % 2 == 0 else -1]
        for order, rows in orders.items():
            for name in names:
                start = time.perf_counter()
                passes[name](rows, out)
                rate = images / (time.perf_counter() - start)
                rates[name][order] = max(rates[name][order], rate)
        if isinstance(baseline, Baseline):
            keep_best(rates, baseline.ask())
    return rates


def block_shuffle(images: int) -> list[int]:
    """Shards in random order, images shuffled inside each pair of shards."""
    rng = np.random.default_rng(0)
    rows = np.arange(images).reshape(-1, SHARD_SIZE) if images % SHARD_SIZE == 0 else None
    if rows is None:
        return [int(i) for i in rng.permutation(images)]
    blocks = rows[rng.permutation(len(rows))].reshape(-1)
    parts = [blocks[i : i + 2 * SHARD_SIZE] for i in range(0, images, 2 * SHARD_SIZE)]
    return [int(i) for part in parts for i in rng.permutation(part)]


def _passes(work: Path) -> dict[str, Pass]:
    def ours(verify: Verify) -> Pass:
        reader = CacheReader(work / "cache", verify)  # as MosaicML's data set, opened once

        def read(rows: Sequence[int], out: NDArray[np.float16]) -> None:
            for i in rows:
                reader.features(i, out)
                _touch(out)

        return read

    def memmap(rows: Sequence[int], out: NDArray[np.float16]) -> None:
        source = np.load(work / "features.npy", mmap_mode="r")
        for i in rows:
            np.copyto(out, source[i])
            _touch(out)

    def plain(rows: Sequence[int], out: NDArray[np.float16]) -> None:
        size, view = out.nbytes, out.data.cast("B")
        fd = os.open(work / "features.npy", os.O_RDONLY)
        for i in rows:
            os.preadv(fd, [view], 128 + i * size)
            _touch(out)
        os.close(fd)

    def zarr_python(rows: Sequence[int], out: NDArray[np.float16]) -> None:
        from zarr import open_array

        array: Any = open_array(next((work / "cache").glob("features/*/dino")), mode="r")
        for i in rows:
            _touch(array[i])

    return {
        "npy memmap": memmap,
        "npy preadv": plain,
        "ours, no verify": ours("off"),
        "ours, verify": ours("always"),
        "zarr-python a[i]": zarr_python,
    }


def _touch(image: NDArray[np.float16]) -> None:
    # One byte per page: proves the copy is there without timing numpy's reductions.
    image.view(np.uint8).reshape(-1)[::4096].max()


def _reader_targets(rates: dict[str, dict[str, float]]) -> list[Target]:
    def ratio(a: str, b: str, order: str) -> float:
        return rates[a][order] / rates[b][order]

    targets = [
        Target(f"{name} / npy memmap, {order}", ratio(name, "npy memmap", order), ">=", target)
        for name, target in (("ours, no verify", 0.75), ("ours, verify", 0.40))
        for order in (SEQ, SHUFFLED)
    ]
    slow = "zarr-python a[i]"
    least = min(ratio("ours, no verify", slow, order) for order in (SEQ, SHUFFLED))
    return [*targets, Target("ours, no verify / zarr-python a[i], the worse", least, ">=", 8)]


def _add_mosaic(bench: StoreBench, failure: str | None) -> None:
    if failure is not None:
        bench.notes.append(f"MosaicML not measured: {failure}")
        return
    ours, getitem = bench.rates["ours, verify"], bench.rates["MosaicML ds[i]"]
    least = min(ours[order] / getitem[order] for order in (SEQ, SHUFFLED))
    bench.targets.append(Target("ours, verify / MosaicML ds[i], the worse", least, ">=", 1.0))
    iteration = bench.rates["ours, no verify"][SEQ] / bench.rates["MosaicML iteration"][SEQ]
    bench.targets.append(Target("ours, no verify / MosaicML iteration", iteration, ">=", 5))


@contextmanager
def _workspace(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        make_folders(folder)
    work = Path(tempfile.mkdtemp(prefix="svp-bench-", dir=folder))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
