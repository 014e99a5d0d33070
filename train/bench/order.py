"""`svp bench order`: what an order of samples costs and how well it mixes.

Quality, of COCO train2017's number of images in shards of 64, batches of 256: shards a batch draws
from, images a window holds, and the noise of a batch's mean of a label that is sorted as the set is
stored, beside that of batches drawn independently (1.0). Cost, of SA-1B's number: the first batch of
a fresh order, in milliseconds of CPU, beside the sort that the order needed before.
"""

import time
from dataclasses import dataclass, field

import numpy as np

from ...pipeline.bench.targets import Target, TargetReport
from ...pipeline.display import counted
from ..data import keyed_rng
from ..data.sampler import Order

COCO_TRAIN, SA_1B = 118_272, 11_185_362
BATCH, SHARD = 256, 64
ORDERS = ("global", "window:64", "window:256")


@dataclass
class OrderBench(TargetReport):
    """By order: shards a batch draws from, images held, noise; milliseconds of a huge set."""

    images: int
    huge: int
    shards: dict[str, float] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    noise: dict[str, float] = field(default_factory=dict)
    first_ms: dict[str, float] = field(default_factory=dict)
    sort_ms: float = 0.0

    def lines(self) -> list[str]:
        """The printable report."""
        head = f"{counted(self.images, 'image')} in shards of {SHARD}, batches of {BATCH}"
        columns = "  per batch    shards  images held  noise"
        rows = [
            f"  {name:12} {self.shards[name]:6.0f}  {self.held[name]:11,}  {self.noise[name]:5.1f}"
            for name in ORDERS
        ]
        costs = [f"  {name:12} {ms:9.2f} ms" for name, ms in self.first_ms.items()]
        return [
            head, columns, *rows, f"the first batch of an order of {counted(self.huge, 'image')}", *costs,
            f"  {'sorting them':12} {self.sort_ms:9.2f} ms",
            *(target.line() for target in self.targets),
        ]  # fmt: skip


def run(*, images: int = COCO_TRAIN, huge: int = SA_1B) -> OrderBench:
    """Measure quality over five passes of `images` and the cost of `huge`."""
    bench = OrderBench(images, huge)
    label = np.arange(images) / images
    for name in ORDERS:
        order = Order([images], seed=0, order=name)
        drawn = [[d.entry for d in order.batch(k, BATCH)] for k in range(5 * images // BATCH)]
        bench.shards[name] = float(np.mean([len({e // SHARD for e in batch}) for batch in drawn]))
        window = int(name.partition(":")[2] or images)
        bench.held[name] = min(window * SHARD, images)
        means = [label[batch].mean() for batch in drawn]
        bench.noise[name] = float(np.std(means) / (label.std() / BATCH**0.5))
        bench.first_ms[name] = _first(name, huge)
        bench.targets.append(
            Target(
                f"any batch of {counted(huge, 'image')}, {name}",
                bench.first_ms[name],
                "<=",
                5,
                "ms",
            )
        )
    began = time.thread_time()
    keyed_rng.permutation(1, huge)
    bench.sort_ms = 1000 * (time.thread_time() - began)
    return bench


def _first(name: str, huge: int) -> float:
    """Milliseconds of CPU of one batch of a fresh order, the worst of batches far apart."""
    took = []
    for step in (0, 10**3, 10**5, 10**7, 10**9):
        order = Order([huge], seed=step, order=name)
        began = time.thread_time()
        order.batch(step, BATCH)
        took.append(time.thread_time() - began)
    return 1000 * max(took)
