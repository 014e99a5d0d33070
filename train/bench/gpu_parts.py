"""Measurements of `svp bench gpu`: rows by part, a part in steps that share what it has set up.

A step yields a row as soon as it is measured. Predictions come from counted operators and three constants
of the device (`pipeline.bench.kernel_time`).
"""

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from ...pipeline.bench import rates
from ...pipeline.bench.kernel_time import H200, DeviceRates, measured_rates
from ...pipeline.display import counted
from ...pipeline.fetch.sam_specs import SAMS
from ...pipeline.recipe import GridConfig
from ...pipeline.sam.segment_anything import SamPackage
from ...pipeline.superpixels.point_grid import GridPrompter
from ..estimates.flops import peak_flops
from .grid_cells import CellSam
from .models import random_sam
from .presets import CELLS, Preset
from .report import Measured
from .runner import Case, Runner, Work
from .speed import device_name, measure

TRAIN2014 = 82_783  # photographs
REPEATS = 3
PHOTOS = 16  # of the SAM stage
PASSES = (24, 48, 80)  # images per forward pass whose memory is looked at
TOP = 5  # kernels that a profile names


@dataclass(frozen=True, slots=True)
class Row:
    """One measured value; its unit stands in its name."""

    part: str
    name: str
    value: float
    predicted: float | None = None


Rows = Generator[Row, None, None]
Steps = Iterator[Callable[[], Rows]]  # that share what the part has set up; each may fail alone
Part = Callable[[Preset, str], Steps]


def constants(preset: Preset, device: str) -> Steps:
    """The three constants of the predictions, measured."""

    def rates() -> Rows:
        found = measured_rates(torch.device(device), getattr(torch, preset.dtype))
        # Of another device the predictions start from what is measured here.
        predicted = _units(H200) if "H200" in device_name(device) else (None, None, None)
        names = ("products, TFLOP/s", "memory, TB/s", "launch of an operator, us")
        for name, value, expected in zip(names, _units(found), predicted, strict=True):
            yield Row("device", name, value, expected)

    yield rates


def _units(rates: DeviceRates) -> tuple[float, float, float]:
    return rates.products / 1e12, rates.memory / 1e12, rates.launch * 1e6


def training(preset: Preset, device: str) -> Steps:
    """Optimizer steps of both stages from the cache, by component; of the MLP live."""
    runner, peak = Runner(preset, ("svp", "mlp"), device), peak_flops(device_name(device))
    found: dict[int, Measured] = {}

    def cached(stage: int) -> Rows:
        runner.enter(stage)
        svp = found[stage] = _measured(runner, Case("train", "svp", False, stage))
        yield Row("training", f"stage {stage}, ms per step", *_ms(svp))
        if peak:
            share = 100 * svp.model_flops / peak
            yield Row(
                "training", f"stage {stage}, MFU, %", share / svp.whole, share / _predicted(svp)
            )
        for part, value in svp.median.items():
            name = f"stage {stage}, {part}, ms"
            yield Row("training", name, 1e3 * value, 1e3 * svp.predicted[part])

    def live() -> Rows:
        runner.enter(2)
        mlp = _measured(runner, Case("train", "mlp", True, 2), repeats=1)
        yield Row("training", "stage 2, MLP live, ms per step", *_ms(mlp))
        yield Row("training", "stage 2, MLP live / SVP from cache", mlp.whole / found[2].whole)

    yield partial(cached, 1)
    yield partial(cached, 2)
    yield live


def answers(preset: Preset, device: str) -> Steps:
    """Answers from the cache and live, of SVP and of the MLP under the same optimisations."""
    runner = Runner(preset, ("svp", "mlp"), device)
    runner.answer()
    works: list[tuple[str, Work, bool]] = [("one answer from the cache", "forward", False)]
    if preset.batch > 1:
        works.append((f"{counted(preset.batch, 'answer')} from the cache", "batch", False))
    if torch.device(device).type == "cuda":
        works.append(("one answer from the cache, captured", "captured", False))
    works.append(("one answer live", "forward", True))

    def one(title: str, work: Work, live: bool) -> Rows:
        svp, mlp = (_measured(runner, Case(work, name, live)) for name in ("svp", "mlp"))
        yield Row("answers", f"{title}, ms", *_ms(svp))
        yield Row("answers", f"{title}, MLP, ms", *_ms(mlp))
        ratio = None if live else _predicted(mlp) / _predicted(svp)
        yield Row("answers", f"{title}, MLP / SVP", mlp.whole / svp.whole, ratio)
        for part, value in svp.median.items():
            predicted = 1e3 * svp.predicted[part] if part in svp.predicted else None
            yield Row("answers", f"{title}, {part}, ms", 1e3 * value, predicted)

    def decoding() -> Rows:
        told, later = _measured(runner, Case("generate", "svp", False)), preset.answer - 1
        each = [1e3 * found["LLM decode"] / later for found in (told.median, told.predicted)]
        yield Row("answers", "decoding, ms per id", *each)

    for work in works:
        yield partial(one, *work)
    yield decoding


def sam_stage(preset: Preset, device: str) -> Steps:
    """Photographs through SAM and the selection of superpixels, fast mode, compiled on CUDA."""
    yield partial(_stage, preset, device, "fast", "SAM stage", PHOTOS)


def models(preset: Preset, device: str) -> Steps:
    """SAM's encoder and decoder and the vision encoder, alone, in every mode."""

    def each() -> Rows:
        for rate in rates.each(device, sam=preset.sam, encoder=preset.encoder):
            name = f"{rate.part}, {rate.mode}, ms"
            yield Row("models", name, 1e3 * rate.seconds, 1e3 * rate.predicted)

    yield each


def memory(preset: Preset, device: str) -> Steps:
    """Peak memory of a step of stage 2 by images per forward pass; nothing on a CPU."""

    def one(images: int) -> Rows:
        runner = Runner(replace(preset, images=images, micro={"svp": images}), ("svp",), device)
        runner.enter(2)
        step = _measured(runner, Case("train", "svp", False, 2), repeats=1)
        title = f"stage 2, {counted(images, 'image')} per pass"
        yield Row("memory", f"{title}, GB", step.memory / 1e9)
        yield Row("memory", f"{title}, ms", *_ms(step))

    for images in PASSES if torch.device(device).type == "cuda" else ():
        yield partial(one, images)


def exact(preset: Preset, device: str) -> Steps:
    """The exact mode, and the kernels that its decoder spends most of its time in."""

    def kernels() -> Rows:
        sam = SamPackage(random_sam(preset, torch.device(device), encoder=True), mode="exact",
                         dtype="float32", device=torch.device(device))  # fmt: skip
        features = torch.zeros(SAMS[preset.sam].embedding, device=device)
        points = torch.full((256, 2), 100.0)
        with torch.profiler.profile() as profile:
            sam.decode(features, points)
        found = sorted(profile.key_averages(), key=_own_time, reverse=True)
        whole = sum(map(_own_time, found)) or 1
        for kernel in found[:TOP]:
            yield Row("exact", f"decoder, {kernel.key[:28]}, %", 100 * _own_time(kernel) / whole)

    yield partial(_stage, preset, device, "exact", "exact SAM stage", 1)
    yield kernels


PARTS: Mapping[str, tuple[float, Part]] = {  # shares of the time, by what was expected of an H200
    "device": (20, constants),
    "training": (130, training),
    "answers": (90, answers),
    "SAM stage": (90, sam_stage),
    "memory": (30, memory),
    "models": (60, models),
    "exact": (40, exact),
}


def _stage(preset: Preset, device: str, mode: Any, title: str, photographs: int) -> Rows:
    """Milliseconds per photograph, the first call left out, and the hours of COCO train2014."""
    dtype: Any = preset.dtype if mode == "fast" else "float32"
    on = torch.device(device)
    package = SamPackage(random_sam(preset, on, encoder=True), mode=mode, dtype=dtype, device=on)
    prompter = GridPrompter(
        CellSam(package, preset.photo, CELLS, lambda part: None),
        config=GridConfig(points_per_side=preset.points),
        mode=mode,
    )
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (*preset.photo, 3), np.uint8) for _ in range(photographs)]
    prompter.generate_batch(photos)
    start = time.perf_counter()
    prompter.generate_batch(photos)
    each = (time.perf_counter() - start) / photographs
    yield Row("SAM", f"{title}, ms per photograph", 1e3 * each)
    yield Row("SAM", f"{title} of train2014, hours", each * TRAIN2014 / 3600)


def _measured(runner: Runner, case: Case, repeats: int | None = None) -> Measured:
    # On a CPU peaks take a process each; here only a GPU's are of interest.
    known = {case: 0} if runner.device.type != "cuda" else {}
    return measure(runner, [case], repeats or REPEATS, known)[0]


def _ms(one: Measured) -> tuple[float, float | None]:
    """Measured and predicted milliseconds; what an encoder does in NumPy is not predicted."""
    return 1e3 * one.whole, None if one.case.live else 1e3 * _predicted(one)


def _predicted(one: Measured) -> float:
    return sum(one.predicted.values())


def _own_time(kernel: Any) -> float:
    return float(kernel.self_device_time_total or kernel.self_cpu_time_total)
