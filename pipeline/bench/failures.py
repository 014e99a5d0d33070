"""How often a large run fails and what each failure costs, by simulation.

A failure takes one node: all its workers lose the shard under way and start again. Nothing else is
lost, because a shard is committed by itself and a run goes on from the committed ones.
"""

from dataclasses import dataclass

import numpy as np

# Llama Team, "The Llama 3 Herd of Models" (2024), section 3.3.4: 419 unexpected interruptions in
# 54 days on 16,384 H100; most of them take one node.
FAILURES_PER_GPU_HOUR = 419 / (54 * 24 * 16_384)
NODE_GPUS = 8
RESTART_S = 90.0  # a worker's process, its libraries and its models, from a shared file system


@dataclass(frozen=True, slots=True)
class Failures:
    """What failures do to a run on `gpus` GPUs.

    per_day    failures a day             total     mean failures of the whole run
    lost_s     GPU-seconds lost per failure, mean: half a shard and a restart for each GPU of a node
    worst_s    the same, 99th percentile
    share      of all GPU-hours that is lost (mean over the trials)
    """

    gpus: int
    days: float
    per_day: float
    total: float
    lost_s: float
    worst_s: float
    share: float


def simulate(
    gpu_hours: float,
    shard_s: float,
    gpus: int,
    *,
    rate: float = FAILURES_PER_GPU_HOUR,
    node: int = NODE_GPUS,
    restart_s: float = RESTART_S,
    trials: int = 200,
    seed: int = 0,
) -> Failures:
    """Trials of one run of `gpu_hours` whose shards take `shard_s` seconds of one GPU.

    Failures arrive as a Poisson process of `rate` per GPU-hour; each hits its workers at a uniform
    place of their shards.
    """
    dice = np.random.default_rng(seed)
    node = min(node, gpus)
    counts = dice.poisson(rate * gpu_hours, trials)
    # The loss of one failure, drawn often enough for its 99th percentile.
    losses = (dice.uniform(0, shard_s, (2000, node)) + restart_s).sum(1)
    total = float(counts.mean())
    days = gpu_hours / gpus / 24
    return Failures(
        gpus=gpus,
        days=days,
        per_day=rate * gpus * 24,
        total=total,
        lost_s=float(losses.mean()),
        worst_s=float(np.percentile(losses, 99)),
        share=total * float(losses.mean()) / 3600 / gpu_hours,
    )
