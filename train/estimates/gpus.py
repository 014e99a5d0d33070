"""GPUs for which a training run can be priced, from `pipeline.precompute.machines`."""

from collections.abc import Mapping
from dataclasses import dataclass

from ...pipeline.precompute.machines import PEAKS


@dataclass(frozen=True, slots=True)
class Gpu:
    """memory in bytes; peak: dense bfloat16 FLOP/s with float32 sums; bandwidth: bytes per second."""

    name: str
    memory: int
    peak: float
    bandwidth: float


GPUS: Mapping[str, Gpu] = {
    key: Gpu(sheet.name, sheet.capacity, 1e12 * sheet.half, 1e12 * sheet.memory)
    for key, sheet in PEAKS.items()
}
