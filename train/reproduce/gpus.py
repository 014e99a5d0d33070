"""GPUs that a plan can be priced for, with the numbers of their data sheets."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gpu:
    """memory in bytes; peak: dense bfloat16 FLOP/s with float32 sums; bandwidth: bytes per second."""

    name: str
    memory: int
    peak: float
    bandwidth: float


GPUS: Mapping[str, Gpu] = {
    "3090": Gpu("RTX 3090", 24 << 30, 71e12, 936e9),
    "4090": Gpu("RTX 4090", 24 << 30, 165e12, 1008e9),
    "a100": Gpu("A100 (80 GB)", 80 << 30, 312e12, 2039e9),
    "h100": Gpu("H100", 80 << 30, 989e12, 3350e9),
    "h200": Gpu("H200", 141 * 10**9, 989e12, 4800e9),
}
