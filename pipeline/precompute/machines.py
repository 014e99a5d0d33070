"""Machine profiles for `--price`: throughput measured on one, derived for the others."""

from collections.abc import Mapping
from dataclasses import dataclass

PARTS = ("features", "sam encoder", "sam decoder")


@dataclass(frozen=True, slots=True)
class Device:
    """TFLOP/s of this code on a machine, not the data sheet's, by `cost_model.tflop`'s parts.

    exact    published modules, float32 without TF32
    single   fast mode in float32
    half     bfloat16 or float16; on a GPU compiled
    origin   where the figures come from
    gpu      whether it is one
    """

    name: str
    exact: Mapping[str, float]
    single: Mapping[str, float]
    half: Mapping[str, float]
    origin: str
    gpu: bool = True


@dataclass(frozen=True, slots=True)
class Peaks:
    """A data sheet: dense TFLOP/s of float32 without tensor cores, of bfloat16, TB/s of memory, and
    its bytes.
    """

    name: str
    single: float
    half: float
    memory: float
    capacity: int


# NVIDIA's data sheets: H200 and H100 SXM, A100 SXM 80 GB; whitepapers of GA102 and AD102 (bfloat16
# with float32 sums).
PEAKS = {
    "3090": Peaks("RTX 3090", 35.6, 71.0, 0.936, 24 << 30),
    "4090": Peaks("RTX 4090", 82.6, 165.2, 1.008, 24 << 30),
    "a100": Peaks("A100 (80 GB)", 19.5, 312.0, 2.039, 80 << 30),
    "h100": Peaks("H100", 67.0, 989.0, 3.35, 80 << 30),
    "h200": Peaks("H200", 67.0, 989.0, 4.8, 141 * 10**9),
}
MEASURED = "h200"
# On one H200 (docs/benchmarks.md), by `PARTS`: DINOv2-L in batches of 8, ViT-H, 256 prompts at once.
# The published decoder writes every prompt's image tokens out, so in float32 it waits for memory.
RATES = {
    "exact": (22.7, 29.0, 2.9),
    "single": (22.7, 30.8, 22.8),
    "half": (64.0, 210.0, 90.0),
}
WAITING = 0.1  # below this share of the peak a part waits for memory, so it goes by bandwidth


def _device(name: str) -> Device:
    own, base = PEAKS[name], PEAKS[MEASURED]
    rows = {}
    for field, rates in RATES.items():
        peak, top = (base.half, own.half) if field == "half" else (base.single, own.single)
        scale = [own.memory / base.memory if r < WAITING * peak else top / peak for r in rates]
        rows[field] = {p: r * s for p, r, s in zip(PARTS, rates, scale, strict=True)}
    # Nothing is slower for being shorter: a part bound by neither keeps its float32 rate.
    rows["half"] = {p: max(r, rows["single"][p]) for p, r in rows["half"].items()}
    derived = (
        "derived from an H200's by data-sheet peaks, where a part waits for memory by bandwidth"
    )
    origin = "measured on an H200" if name == MEASURED else derived
    return Device(f"NVIDIA {own.name}", rows["exact"], rows["single"], rows["half"], origin)


def one_rate(name: str, rate: float, origin: str, *, gpu: bool = False) -> Device:
    """A machine known by one figure in TFLOP/s."""
    every = dict.fromkeys(PARTS, rate)
    return Device(name, every, every, every, origin, gpu)


DEVICES = {name: _device(name) for name in PEAKS}
DEVICES["core"] = one_rate("CPU core, fp32", 0.05, "assumed")


def measured_here(device: str, threads: int = 1) -> Device:
    """This machine's worker, by the float32 matrix product it does: at best what models reach.

    device  as `ExecutorOptions.device`
    """
    import time

    import torch

    cpu = device == "cpu"
    side = 768 if cpu else 4096
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    a = torch.ones(side, side, device="cpu" if cpu else "cuda")
    best = float("inf")
    for _ in range(4):  # the first warms up
        began = time.perf_counter()
        float((a @ a)[0, 0])
        best = min(best, time.perf_counter() - began)
    torch.set_num_threads(before)
    what = f"a {side} x {side} float32 product here, more than the models reach: the least time"
    return one_rate("CPU worker" if cpu else "GPU here", 2e-12 * side**3 / best, what, gpu=not cpu)
