"""`svp bench remote`: whole samples of a cache on an object store, read as training reads them.

Shuffled batches, the reads of each in flight, in a few threads; every row's checksum is compared.
With a row tier a second reader, which knows nothing of the first, shows what the next run gets.
Rates depend on the network and the service: run it where the training will run. Requests and CPU
time per image do not. By hand, against a server of one's own with 20 ms to the first byte:
`python -m support.object_server --port 9000 --latency 0.02` in tests/, AWS_ENDPOINT_URL=its address.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from ...pipeline.bench.synthetic_cache import bench_features, make_cache
from ...pipeline.bench.targets import TargetReport
from ...pipeline.cache.index import GOOD
from ...pipeline.cache.layers import COVER, FEATURES, POOLED, SAM
from ...pipeline.cache.layout import holds_cache
from ...pipeline.cache.reader import CacheReader
from ...pipeline.cache.row_tier import RowTier
from ...pipeline.display import counted
from ...pipeline.errors import ConfigError
from ...pipeline.store import FolderStore, Place, open_store
from ...pipeline.store.object_client import requests_made
from ..data.collate import SMALL

GET_PRICE = 4e-7  # US dollars for one GET, list price of S3 Standard
COCO_TRAIN = 118_287
SHAPE = (576, 1024)  # patches and channels of the synthetic cache


@dataclass
class RemoteBench(TargetReport):
    """Rate and cost of reading by a reader that knows nothing yet, and by the same once more.

    first_s      seconds until the first batch was there, opening included
    images_per_s, requests, cpu_ms  of (first pass, second pass), with a tier also of the first pass
                 of another reader; the latter two per image
    """

    place: str
    images: int
    fields: tuple[str, ...]
    bytes: int
    first_s: float
    images_per_s: tuple[float, ...]
    requests: tuple[float, ...]
    cpu_ms: tuple[float, ...]

    def lines(self) -> list[str]:
        """The printable report."""
        names = ("first pass", "second", "next run")[: len(self.requests)]
        passes = zip(names, self.images_per_s, self.requests, self.cpu_ms, strict=True)
        epoch = self.requests[0] * COCO_TRAIN * GET_PRICE
        return [
            f"{self.place}: {counted(self.images, 'image')} of {self.bytes / 1e6:.2f} MB: "
            + ", ".join(self.fields),
            f"the first batch was there after {self.first_s:.2f} s",
            *(
                f"  {name:10} {rate:7.0f} img/s  {ms:5.2f} ms of CPU and requests per image: {asked:.2f}"
                for name, rate, asked, ms in passes
            ),
            f"an epoch of COCO's {COCO_TRAIN:,} images costs about ${epoch:.2f} of requests (S3's list price)",
            *self.notes,
        ]


def run(
    place: Place,
    *,
    make: int = 0,
    batch: int = 64,
    threads: int = 2,
    tier: RowTier | None = None,
) -> RemoteBench:
    """Read every image of the cache at `place` twice, in random order.

    make  images of a synthetic cache (576x1024 float16) that is made there first; 0: none
    tier  keeps what is read: should hold nothing of this cache yet

    Raises ConfigError for a folder, what `CacheReader` raises for no cache.
    """
    if isinstance(open_store(place), FolderStore):
        raise ConfigError(
            f"{place}: is a folder: name a cache at an address, such as s3://bucket/cache"
        )
    if make and not holds_cache(place):
        make_cache(place, bench_features(make, SHAPE))
    began = time.perf_counter()
    reader = CacheReader(place, "always", tier=tier)
    thin = reader.plan.thin
    fields = [*([] if thin else [FEATURES]), *([SAM] if reader.plan.sam else [])]
    beside = (*SMALL, POOLED) if thin else SMALL
    order = np.random.default_rng(0).permutation(np.flatnonzero(reader.rows.status == GOOD))
    if not len(order):
        raise ConfigError(f"{place}: holds no image yet: make it with `svp precompute --out`")
    batches = [order[k : k + batch].tolist() for k in range(0, len(order), batch)]
    if tier is not None:
        tier.require_batch(reader.plan, batch)
    first: list[float] = []

    def read(reader: CacheReader, rows: Sequence[int]) -> None:
        plan = reader.plan
        shapes = {FEATURES: (plan.patches, plan.channels), SAM: plan.sam or ()}
        into = {name: np.empty((len(rows), *shapes[name]), np.float16) for name in fields}
        reader.gather(rows, {name: [*values] for name, values in into.items()}, beside)
        for i in rows:
            _ = reader.areas(i), reader.cover(i), reader.sspe_masks(i)
            _ = reader.pooled(i) if thin else None
        first.append(time.perf_counter() - began)

    passes = []
    with ThreadPoolExecutor(threads) as pool:
        for number in range(2 if tier is None else 3):
            asked, busy, start = requests_made(), time.process_time(), time.perf_counter()
            if number == 2:
                reader = CacheReader(place, "always", tier=tier)
            list(pool.map(partial(read, reader), batches))
            spent = time.perf_counter() - start
            if tier is not None:
                tier.settle()  # the CPU time is with that of writing
            passes.append(
                (
                    len(order) / spent,
                    (requests_made() - asked) / len(order),
                    1000 * (time.process_time() - busy) / len(order),
                )
            )
    rates, requests, cpu = zip(*passes, strict=True)
    kinds = {FEATURES, SAM, COVER} | ({POOLED} if thin else set())
    size = sum(
        spec.row_bytes
        for layer in reader.plan.layers
        for spec in layer.arrays
        if layer.kind in kinds or spec.name in SMALL
    )
    found = RemoteBench(
        str(place), len(order), (*fields, *beside), size, min(first), rates, requests, cpu
    )
    if tier is not None:
        found.notes.append(tier.line())
    return found
