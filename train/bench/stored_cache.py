"""`svp bench remote`: whole samples of a cache on an object store, read as training reads them.

Shuffled batches, the reads of each in flight, in a few threads, into memory that is used again; every
row's checksum is compared. With a row tier a second reader, which knows nothing of the first, shows
what the next run gets. In turns with it the client library alone fetches the same bytes. Rates depend
on the network and the service: run it where the training will run. Requests and CPU time per image,
which is that of this process alone, do not. By hand, against a server of one's own with 20 ms to the
first byte: `python -m support.object_server --port 9000 --latency 0.02` in tests/; AWS_ENDPOINT_URL is
its address.
"""

import asyncio
import os
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray

from ...pipeline.bench.synthetic_cache import bench_features, make_cache
from ...pipeline.bench.targets import TargetReport
from ...pipeline.cache.index import GOOD
from ...pipeline.cache.layers import COVER, FEATURES, POOLED, SAM
from ...pipeline.cache.layout import holds_cache, shard_key
from ...pipeline.cache.reader import CacheReader
from ...pipeline.cache.row_tier import RowTier
from ...pipeline.cache.schema import ArraySpec
from ...pipeline.cache.shard_file import ShardFile
from ...pipeline.display import counted
from ...pipeline.errors import ConfigError
from ...pipeline.io.atomic import make_folders
from ...pipeline.store import FolderStore, ObjectStore, Place, open_store
from ...pipeline.store.in_flight import IN_FLIGHT
from ...pipeline.store.object_client import client, requests_made
from ..data.collate import SMALL, Memory
from . import other_loaders_script as script
from . import remote_loaders
from .remote_loaders import RemoteComparison

GET_PRICE = 4e-7  # US dollars for one GET, list price of S3 Standard
COCO_TRAIN = 118_287
SHAPE = (576, 1024)  # patches and channels of the synthetic cache
ALONE = "obstore alone"
# Of batches of other loaders' size: they keep as many reads in flight as one large batch.
OUR_THREADS = -(-IN_FLIGHT // script.BATCH)


@dataclass
class RemoteBench(TargetReport):
    """Rate and cost of reading by a reader that knows nothing yet, and by the same once more.

    bytes        of a sample in memory
    stored       of it in the cache, which is what travels; both per image
    first_s      seconds until the first batch was there, opening included
    images_per_s, requests, cpu_ms  of (first pass, second pass), with a tier also of the first pass
                 of another reader; the latter two per image
    alone        images per second and CPU ms per image of the client library that fetches the same
                 bytes, without opening, checks and decoding; None for a store without it
    load         one-minute load average before and after
    others       loaders of other projects on the features, None unless asked for

    Of several repetitions the medians.
    """

    place: str
    images: int
    fields: tuple[str, ...]
    bytes: int
    stored: int
    first_s: float
    images_per_s: tuple[float, ...]
    requests: tuple[float, ...]
    cpu_ms: tuple[float, ...]
    alone: tuple[float, float] | None
    load: tuple[float, float]
    threads: int
    others: RemoteComparison | None = None

    def lines(self) -> list[str]:
        """The printable report."""
        names = ("first pass", "second", "next run")[: len(self.requests)]
        passes = zip(names, self.images_per_s, self.requests, self.cpu_ms, strict=True)
        epoch = self.requests[0] * COCO_TRAIN * GET_PRICE
        sizes = f"{self.bytes / 1e6:.2f} MB ({self.stored / 1e6:.2f} MB stored)"
        load = f"load average {self.load[0]:.1f} to {self.load[1]:.1f}"
        lines = [
            f"{self.place}: {counted(self.images, 'image')} of {sizes}: {', '.join(self.fields)}; {load}",
            f"the first batch was there after {self.first_s:.2f} s",
            *(
                f"  {name:13} {rate:7.0f} img/s  {ms:5.2f} ms of CPU and requests per image: {asked:.2f}"
                for name, rate, asked, ms in passes
            ),
        ]
        if self.alone:
            rate, ms = self.alone
            ratios = ", ".join(f"{ours / ms:.2f}" for ours in self.cpu_ms)
            lines.append(
                f"  {ALONE:13} {rate:7.0f} img/s  {ms:5.2f} ms of CPU: the same bytes, neither "
                f"checked nor kept; the passes take {ratios} times its CPU"
            )
        lines.append(
            f"an epoch of COCO's {COCO_TRAIN:,} images costs about ${epoch:.2f} of requests (S3's list price)"
        )
        if self.others:
            lines += self.others.lines(self.threads)
        return [*lines, *(target.line() for target in self.targets), *self.notes]


@dataclass(frozen=True)
class _Sample:
    """The rows of a cache to read, and the way they are read."""

    place: Place
    order: NDArray[np.int64]
    batch: int
    threads: int
    memory: Memory
    tier: RowTier | None = None

    def passes(self) -> tuple[float, list[tuple[float, float, float]]]:
        """Seconds to the first batch; images per second, requests and CPU ms of each pass."""
        began, tier = time.perf_counter(), self.tier
        reader = CacheReader(self.place, "always", tier=tier)
        first: list[float] = []

        def read(reader: CacheReader, rows: Sequence[int]) -> None:
            self.read(reader, rows, _fields(reader), SMALL)
            for i in rows:
                _ = reader.areas(i), reader.cover(i), reader.sspe_masks(i)
            first.append(time.perf_counter() - began)

        passes, count = [], len(self.order)
        with ThreadPoolExecutor(self.threads) as pool:
            for number in range(2 if tier is None else 3):
                asked, busy, start = requests_made(), time.process_time(), time.perf_counter()
                if number == 2:
                    reader = CacheReader(self.place, "always", tier=tier)
                list(pool.map(partial(read, reader), _parts(self.order, self.batch)))
                rate = count / (time.perf_counter() - start)
                if tier is not None:
                    tier.settle()  # the CPU time is with that of writing
                cpu = 1000 * (time.process_time() - busy) / count
                passes.append((rate, (requests_made() - asked) / count, cpu))
        return min(first), passes

    def read(
        self, reader: CacheReader, rows: Sequence[int], fields: Sequence[str], beside: Sequence[str]
    ) -> list[torch.Tensor]:
        """The fields of the rows, each in one tensor."""
        plan = reader.plan
        shapes: dict[str, tuple[int, ...]] = {
            FEATURES: (plan.patches, plan.channels),
            SAM: plan.sam or (),
        }
        shapes |= {POOLED: plan.layer(POOLED).arrays[0].row} if plan.thin else {}
        found = [self.memory.take((len(rows), *shapes[name]), torch.float16) for name in fields]
        into = {
            name: [row.numpy() for row in rows_of]
            for name, rows_of in zip(fields, found, strict=True)
        }
        reader.gather(rows, into, beside)
        return found

    def features_alone(self, rep: int) -> remote_loaders.Pass:
        """One pass of a new reader over the features, as the other loaders make it."""
        order = np.random.default_rng(rep).permutation(self.order)

        def batches() -> Iterator[script.Batch]:
            reader = CacheReader(self.place, "always")
            waiting: deque[tuple[list[int], Future[list[torch.Tensor]]]] = deque()
            with ThreadPoolExecutor(max(self.threads, OUR_THREADS)) as pool:
                for rows in _parts(order, script.BATCH):
                    waiting.append((rows, pool.submit(self.read, reader, rows, [FEATURES], ())))
                    if len(waiting) > script.AHEAD:
                        rows, made = waiting.popleft()
                        yield rows, made.result()[0]
                while waiting:
                    rows, made = waiting.popleft()
                    yield rows, made.result()[0]

        timed = script.measure_pass(batches, time.process_time)
        count = len(order)
        return timed["first"], count / timed["wall"], 1000 * timed["cpu"] / count


def run(
    place: Place,
    *,
    make: int = 0,
    batch: int = 64,
    threads: int = 2,
    reps: int = 1,
    tier: RowTier | None = None,
    rivals: Sequence[str] = (),
    environments: Path | None = None,
    folder: Path | None = None,
) -> RemoteBench:
    """Read every image of the cache at `place` twice, in random order.

    make    images of a synthetic cache (576x1024 float16) that is made there first; 0: none
    tier    keeps what is read: should hold nothing of this cache yet
    rivals  names of `remote_loaders.TIMES`
    environments, folder: as in `svp bench loader`; other loaders write into the folder what they read

    Raises ConfigError for a folder, for repetitions with a tier, what `CacheReader` raises for no cache.
    """
    if tier is not None and reps > 1:
        raise ConfigError("--tier: one repetition: the next would find what the first one kept")
    if isinstance(open_store(place), FolderStore):
        raise ConfigError(
            f"{place}: is a folder: name a cache at an address, such as s3://bucket/cache"
        )
    for wanted in (folder, environments):
        if wanted is not None:
            make_folders(wanted)
    if make and not holds_cache(place):
        make_cache(place, bench_features(make, SHAPE))
    before, reader = os.getloadavg()[0], CacheReader(place, "always")
    good = np.flatnonzero(reader.rows.status == GOOD)
    if not len(good):
        raise ConfigError(f"{place}: holds no image yet: make it with `svp precompute --out`")
    if tier is not None:
        tier.require_batch(reader.plan, batch)
    if rivals:
        remote_loaders.require_features(reader)
    order = np.random.default_rng(0).permutation(good)
    sample = _Sample(place, order, batch, threads, Memory(), tier)
    spans, found, alone = _spans(reader, order), [], []
    for _ in range(reps):
        found.append(sample.passes())
        if isinstance(reader.store, ObjectStore):
            alone.append(_fetch_alone(reader.store, spans, len(order)))
    each = [*zip(*(passes for _, passes in found), strict=True)]  # pass, repetition
    rates, requests, cpu = (
        tuple(median(one[at] for one in passes) for passes in each) for at in range(3)
    )
    others = None
    if rivals:
        with tempfile.TemporaryDirectory(prefix="svp-bench-", dir=folder) as work:
            others = remote_loaders.compare(
                reader, np.sort(order), rivals, Path(work), sample.features_alone,
                reps=reps, workers=threads, environments=environments,
            )  # fmt: skip
    bench = RemoteBench(
        place=str(place),
        images=len(order),
        fields=(*_fields(reader), *SMALL),
        bytes=sum(spec.row_bytes for spec in _specs(reader)),
        stored=sum(size for _, _, size in spans) // len(order),
        first_s=median(seconds for seconds, _ in found),
        images_per_s=rates,
        requests=requests,
        cpu_ms=cpu,
        alone=(median(rate for rate, _ in alone), median(ms for _, ms in alone)) if alone else None,
        load=(before, os.getloadavg()[0]),
        threads=threads,
        others=others,
    )
    bench.targets = others.targets() if others else []
    if tier is not None:
        bench.notes.append(tier.line())
    return bench


def _parts(order: NDArray[np.int64], batch: int) -> list[list[int]]:
    return [order[k : k + batch].tolist() for k in range(0, len(order), batch)]


def _fields(reader: CacheReader) -> list[str]:
    plan = reader.plan
    return [POOLED if plan.thin else FEATURES, *([SAM] if plan.sam else [])]


def _specs(reader: CacheReader) -> list[ArraySpec]:
    """The arrays of a sample."""
    kinds = {FEATURES, SAM, COVER} | ({POOLED} if reader.plan.thin else set())
    return [
        spec
        for layer in reader.plan.layers
        for spec in layer.arrays
        if layer.kind in kinds or spec.name in SMALL
    ]


def _spans(reader: CacheReader, order: NDArray[np.int64]) -> list[tuple[str, int, int]]:
    """Key, offset and length of what a pass fetches: rows, and whole files of small arrays."""
    spans, size = [], reader.plan.shard_size
    for spec in _specs(reader):
        files = {
            shard: ShardFile(reader.store, shard_key(spec, shard), spec, size)
            for shard in np.unique(order // size).tolist()
        }
        if spec.small:
            spans += [(file.key, 0, file.weight) for file in files.values()]
            continue
        for shard, slot in zip(*divmod(order, size), strict=True):
            spans.append((files[shard].key, *files[shard].place(slot)))
    return spans


def _fetch_alone(
    store: ObjectStore, spans: Sequence[tuple[str, int, int]], images: int
) -> tuple[float, float]:
    """Images per second and CPU ms per image of the spans by obstore, as many in flight as ours."""
    from obstore import get_range_async

    bucket = client(store.address, store.policy.stall)

    async def fetch_all() -> None:
        gate = asyncio.Semaphore(IN_FLIGHT)

        async def fetch(key: str, offset: int, size: int) -> None:
            async with gate:
                path = "/".join(filter(None, [store.prefix, key]))
                await get_range_async(bucket, path, start=offset, length=size)

        await asyncio.gather(*(fetch(*span) for span in spans))

    busy, start = time.process_time(), time.perf_counter()
    asyncio.run(fetch_all())
    rate = images / (time.perf_counter() - start)
    return rate, 1000 * (time.process_time() - busy) / images
