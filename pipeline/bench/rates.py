"""`svp bench rates`: throughput of the models on a device in each mode, used by `--price`.

Random weights and photographs of noise: times depend on shapes only. What the modes change is told
by the distance of their outputs from those of exact mode on the same inputs.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..display import Report, counted, markdown_table
from ..encoders import build_encoder
from ..executors import ExecutorOptions
from ..executors.devices import usable_devices
from ..fetch.encoder_specs import ENCODERS
from ..fetch.sam_specs import SAMS
from ..recipe import FeatureConfig, SuperpixelConfig
from ..records import LocalPaths
from ..sam import build_backend
from .kernel_time import device_rates
from .operators import KernelCounter

PHOTO = (480, 640)  # COCO's most frequent size
Mode = Literal["exact", "fast"]
Dtype = Literal["float32", "bfloat16"]
MODES: tuple[tuple[Mode, Dtype], ...] = (
    ("exact", "float32"), ("fast", "float32"), ("fast", "bfloat16"),
)  # fmt: skip
HERE = LocalPaths(images=Path())


@dataclass(frozen=True, slots=True)
class Rate:
    """One part in one mode.

    first    seconds of the first call, compiling included; seconds  of a later one, the median
    tflop    operations of a call
    predicted  seconds of a later one by `kernel_time`, nothing compiled
    away     |output - that of exact mode| / |that|
    """

    part: str
    mode: str
    first: float
    seconds: float
    tflop: float
    away: float
    predicted: float

    @property
    def speed(self) -> float:
        """TFLOP/s."""
        return self.tflop / self.seconds


@dataclass(frozen=True, slots=True)
class RatesReport(Report):
    """All parts in all modes."""

    device: str
    rates: tuple[Rate, ...]

    def to_json(self) -> dict[str, Any]:
        rows = [asdict(rate) | {"tflop_per_s": rate.speed} for rate in self.rates]
        return {"device": self.device, "rates": rows}

    def lines(self) -> list[str]:
        """Markdown."""
        rows = [
            (r.part, r.mode, f"{r.first:.1f}", f"{1e3 * r.seconds:.1f}",
             f"{1e3 * r.predicted:.1f}", f"{r.speed:.3g}", f"{r.away:.1e}")
            for r in self.rates
        ]  # fmt: skip
        head = ("part", "mode", "first call, s", "later, ms", "predicted, eager, ms", "TFLOP/s",
                "away from exact")  # fmt: skip
        return [f"{self.device}, random weights", "", *markdown_table(head, rows).splitlines()]


def run(
    device: str = "cpu",
    *,
    sam: str = "tiny",
    encoder: str = "tiny",
    images: int = 8,
    prompts: int = 256,
    repeats: int = 5,
) -> RatesReport:
    """Features of `images` images, SAM's encoder on one, its decoder on `prompts` points.

    Raises ConfigError for a device that is not there or a model that is not known.
    """
    found = each(device, sam=sam, encoder=encoder, images=images, prompts=prompts, repeats=repeats)
    rates = sorted(found, key=lambda rate: "decoder" in rate.part)
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"
    return RatesReport(f"{name}, {counted(torch.get_num_threads(), 'thread')}", tuple(rates))


def each(
    device: str, *, sam: str, encoder: str, images: int = 8, prompts: int = 256, repeats: int = 5
) -> Iterator[Rate]:
    """The rates of `run`, each as soon as it is measured."""
    usable_devices(ExecutorOptions(device=device))  # refuses what is not there
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (*PHOTO, 3), np.uint8) for _ in range(images)]
    points = torch.from_numpy(rng.uniform(0, 60, (prompts, 2)))
    clock = _Clock(torch.device(device), repeats)
    yield from _features(encoder, photos, clock)
    yield from _sam(sam, photos[:1], points, clock)


class _Clock:
    """Times a call until the device has done its work, and compares its output."""

    def __init__(self, device: torch.device, repeats: int) -> None:
        self.device, self._repeats = device, repeats
        self._exact: dict[str, Tensor] = {}
        self._rates = {
            name: device_rates(device, getattr(torch, name)) for name in ("float32", "bfloat16")
        }

    def rate(self, part: str, mode: str, tflop: float, call: Callable[[], Tensor]) -> Rate:
        """The first mode of a part is what the others are compared with."""
        first, output = self._once(call)
        later = [self._once(call)[0] for _ in range(self._repeats)]
        exact = self._exact.setdefault(part, output)
        away = float((output - exact).norm() / exact.norm())
        return Rate(part, mode, first, median(later), tflop, away, self._predicted(mode, call))

    def _predicted(self, mode: str, call: Callable[[], Tensor]) -> float:
        with torch.compiler.set_stance("force_eager"), KernelCounter() as counter:
            call()
            counter.lap("call")
        return self._rates[mode.split()[-1]].seconds(counter.parts["call"])

    def _once(self, call: Callable[[], Tensor]) -> tuple[float, Tensor]:
        self._wait()
        start = time.perf_counter()
        output = call()
        self._wait()
        return time.perf_counter() - start, output.float()

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _features(name: str, photos: list[NDArray[np.uint8]], clock: _Clock) -> Iterator[Rate]:
    for dtype in ("float32", "bfloat16"):
        size = ENCODERS[name].size
        told = {"encoder": name, "weights": "random:0", "size": size, "dtype": dtype}
        encoder = build_encoder(FeatureConfig.model_validate(told), HERE, str(clock.device))
        work = len(photos) * ENCODERS[name].tflop

        def call(encoder: Any = encoder) -> Tensor:
            return torch.from_numpy(encoder.encode(photos).patches)

        yield clock.rate(f"{name}, {counted(len(photos), 'image')}", dtype, work, call)


def _sam(
    model: str, photos: list[NDArray[np.uint8]], points: Tensor, clock: _Clock
) -> Iterator[Rate]:
    features: Tensor | None = None
    spec = SAMS[model]
    for mode, dtype in MODES:
        told = {"source": spec.source, "model": model, "weights": "random:0"}
        told |= {"mode": mode, "dtype": dtype}
        sam = build_backend(SuperpixelConfig.model_validate(told), HERE, str(clock.device))
        features = sam.embed(photos)[0] if features is None else features

        def encode(sam: Any = sam) -> Tensor:
            found: Tensor = sam.embed(photos)
            return found

        def decode(sam: Any = sam, features: Tensor = features) -> Tensor:
            logits: Tensor = sam.decode(features, points)[0]
            return logits

        name = f"{mode} {dtype}"
        yield clock.rate(f"SAM {model} encoder, 1 image", name, spec.tflop, encode)
        work = len(points) * spec.prompt_gflop / 1e3
        yield clock.rate(f"its decoder, {counted(len(points), 'prompt')}", name, work, decode)
