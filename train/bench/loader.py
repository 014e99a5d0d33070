"""`svp bench loader`: data loading rate, against baselines in the same run.

Method: all files are freshly written in this run and read warm, checksums on; whole training
samples of the paper's shapes (features, SAM embedding, superpixels, targets, tokenised dialogues)
in batches of 16. Start-up is not timed, turns alternate, best of `reps`. Only ratios within a run
mean something.
"""

import logging
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...pipeline.bench.targets import Target, TargetReport
from ...pipeline.cache import CacheReader
from ...pipeline.display import counted
from ...pipeline.io.atomic import make_folders
from ..data import keyed_rng
from ..data.build_table import open_table
from ..data.collate import CachedVisuals, Memory
from ..data.loader import AHEAD, Draws, Loader, RankSlice
from ..data.sampler import Order
from ..data.tokenizer import load_vocabulary
from . import other_loaders
from .loader_data import paper_source, write_paper_cache
from .rle_baseline import RleTable, RleVisuals

log = logging.getLogger(__name__)

BATCH = 16
COCO_TRAIN = 118_287  # images of train2017
REFCOCO = (16_994, 16_992, 21_899)  # train entries of the three sets
OURS, FEATURES = "ours, whole samples", "ours, features alone"
DENSE, RUNS = "RLE decoded, resized dense", "RLE resized by runs"
_TOKENIZER = Path(__file__).parents[2] / "workflows" / "tiny" / "lm"

LONG, SHORT = 48, 8  # batches that are timed: of the fast loaders, of the slow ones

Run = Callable[[], Generator[object]]  # an endless stream of batches of BATCH images


@dataclass
class LoaderBench(TargetReport):
    """The outcome: images per second and CPU milliseconds per image by name, and targets.

    others  loaders of other projects on the features, None unless asked for
    """

    images: int
    threads: int
    rates: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    others: other_loaders.Comparison | None = None

    def lines(self) -> list[str]:
        """The printable report."""
        head = (
            f"{counted(self.images, 'image')}: 576x1024 features, 256x64x64 embedding, 40 "
            f"superpixels and 3 targets at 480x640; {counted(self.threads, 'thread')}, checksums on"
        )
        rows = [
            f"  {name:46} {rate:8.0f} img/s"
            + (f"  {self.cpu[name]:8.2f} ms of CPU per image" if name in self.cpu else "")
            for name, rate in self.rates.items()
        ]
        if self.others:
            rows += self.others.lines(self.threads)
        return [head, *rows, *(target.line() for target in self.targets), *self.notes]


def run(
    *,
    images: int = 256,
    reps: int = 3,
    threads: int = 2,
    rivals: Sequence[str] = (),
    environments: Path | None = None,
    folder: Path | None = None,
) -> LoaderBench:
    """Measure everything; `rivals` are names of `other_loaders.RIVALS`.

    environments: folder of the rivals' virtual environments (default: in the user's cache)
    folder: where the files go (default: the temp folder); about 4 MB per image are used, and 2 MB
    more for each rival.
    """
    bench = LoaderBench(images, threads)
    for wanted in (folder, environments):
        if wanted is not None:
            make_folders(wanted)
    with tempfile.TemporaryDirectory(prefix="svp-bench-", dir=folder) as work:
        log.info(f"writing {counted(images, 'image')}")
        cache = write_paper_cache(Path(work) / "cache", images)
        runs = _runs(cache, Path(work), threads)
        log.info(f"loading: {counted(len(runs), 'loader')}, best of {reps}")
        _measure(bench, runs, reps)
        if rivals:
            log.info(f"other loaders: {', '.join(rivals)}")
            bench.others = other_loaders.compare(
                cache, rivals, Path(work), reps=reps, threads=threads, stream=_features_alone,
                environments=environments,
            )  # fmt: skip
    bench.targets = _targets(bench)
    if not rivals:
        bench.notes.append("other loaders not measured: use --rivals (makes their environments)")
    return bench


def _runs(cache: CacheReader, work: Path, threads: int) -> dict[str, Run]:
    source = paper_source(cache)
    table = open_table(work / "tables", [source], [cache], training=True)
    slow = RleTable(table.path, {ann: mask for (_, ann), mask in source.masks.items()})
    vocab = load_vocabulary(_TOKENIZER)
    draws = Draws(seed=0, global_batch=BATCH)
    share = RankSlice(micro_batch=BATCH, threads=threads)
    ours = Loader(table, CachedVisuals([cache], {"masks"}), vocab, draws, share)
    dense = Loader(slow, RleVisuals([cache], "dense"), vocab, draws, share)
    by_runs = Loader(slow, RleVisuals([cache], "runs"), vocab, draws, share)
    return {
        OURS: lambda: ours.steps(ours.start()),
        FEATURES: lambda: _features_alone(cache, threads),
        DENSE: lambda: dense.steps(dense.start()),
        RUNS: lambda: by_runs.steps(by_runs.start()),
    }


def _features_alone(cache: CacheReader, threads: int) -> Generator[Tensor]:
    """Batches of features in random order, filled by threads a few batches ahead."""
    shape, memory = (BATCH, cache.plan.patches, cache.plan.channels), Memory()

    def fill(rows: NDArray[np.int64]) -> Tensor:
        out = memory.take(shape, torch.float16)
        for row, into in zip(rows.tolist(), out, strict=True):
            cache.features(row, into.numpy())
        return out

    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Tensor]] = deque()
        for epoch in count():
            order = keyed_rng.permutation(keyed_rng.key_of(epoch), len(cache))
            for i in range(0, len(order) - BATCH + 1, BATCH):
                waiting.append(pool.submit(fill, order[i : i + BATCH]))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()


def _measure(bench: LoaderBench, runs: dict[str, Run], reps: int) -> None:
    for rep in range(reps):
        for name in list(runs)[:: 1 if rep % 2 == 0 else -1]:
            rate, cost = _rate(runs[name], LONG if name in (OURS, FEATURES) else SHORT)
            bench.rates[name] = max(bench.rates.get(name, 0.0), rate)
            bench.cpu[name] = min(bench.cpu.get(name, cost), cost)
    bench.rates = {name: bench.rates[name] for name in runs}


def _rate(run: Run, batches: int) -> tuple[float, float]:
    """Images per second and CPU milliseconds per image, after two batches of start-up."""
    stream = run()
    deque(islice(stream, 2), maxlen=0)
    start, busy = time.perf_counter(), time.process_time()
    deque(islice(stream, batches), maxlen=0)
    images = batches * BATCH
    rate = images / (time.perf_counter() - start)
    cost = 1000 * (time.process_time() - busy) / images
    stream.close()
    return rate, cost


def _targets(bench: LoaderBench) -> list[Target]:
    rates = bench.rates
    baseline = max(rates[DENSE], rates[RUNS])
    targets = [
        Target(f"{OURS}, {counted(bench.threads, 'thread')}", rates[OURS], ">=", 500, "img/s"),
        Target(f"{OURS} / from RLEs, the faster way", rates[OURS] / baseline, ">=", 10),
        Target("resume at any step", _resume_ms(), "<=", 50, "ms"),
        Target(f"order of {COCO_TRAIN} samples", _order_ms(), "<=", 100, "ms"),
    ]
    if bench.others:
        targets += bench.others.targets()
    return targets


def _resume_ms() -> float:
    """The worst of a few far steps of RefCOCO's training sets, with nothing remembered."""

    def one(seed: int) -> float:
        start = time.perf_counter()
        Order(REFCOCO, seed=seed).batch(10**6 + seed, 160)
        return 1000 * (time.perf_counter() - start)

    return min(max(one(10 * rep + seed) for seed in range(5)) for rep in range(3))


def _order_ms() -> float:
    def one(key: int) -> float:
        start = time.perf_counter()
        keyed_rng.permutation(key, COCO_TRAIN)
        return 1000 * (time.perf_counter() - start)

    return min(one(key) for key in range(5))
