"""`svp bench train` and `svp bench infer`: 40 tokens of SVP against 576 of the MLP.

The same language model stands behind both. Cases take turns, so that whatever else the machine does
hits all alike; the first round, in which operations are counted, also warms up. On a CPU seconds
are CPU seconds of one thread, on a GPU they end when its work does.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from ...model.projectors import projector_class
from ...pipeline.bench.kernel_time import DeviceRates, device_rates
from ...pipeline.bench.operators import KernelCounter, Kernels
from ...pipeline.errors import ConfigError
from ...pipeline.executors import ExecutorOptions
from ...pipeline.executors.devices import usable_devices
from ...pipeline.process import one_thread
from ..estimates.flops import llm_flops, peak_flops
from .components import CAPTURED, Meter
from .memory import device_peak, peak_memory
from .presets import PRESETS, Preset
from .report import Measured, SpeedReport
from .runner import Case, Runner, Work

PROJECTORS = ("mlp", "svp")


def bench_train(
    preset: Preset = PRESETS["cpu"],
    device: str = "cpu",
    repeats: int = 3,
    more: Sequence[str] = (),
) -> SpeedReport:
    """Optimizer steps of both stages, from cache and live. Raises ConfigError, SvpError."""
    names = _names(more)
    stages = [
        [Case("train", name, live, stage) for live in (False, True) for name in names]
        for stage in (1, 2)
    ]
    return _bench(preset, device, repeats, stages)


def bench_infer(
    preset: Preset = PRESETS["cpu"],
    device: str = "cpu",
    repeats: int = 3,
    more: Sequence[str] = (),
) -> SpeedReport:
    """One image and one expression: teacher-forced from cache and live, and generated live.

    Also teacher-forced with `preset.batch` images at once, if that is more than one; and on CUDA one
    from cache as a captured graph. SVP and MLP have the same optimisations everywhere.
    Raises ConfigError, SvpError.
    """
    kinds: Sequence[tuple[Work, bool]]
    kinds = (("forward", False), ("forward", True), ("generate", True))
    if preset.batch > 1:
        kinds = (*kinds, ("batch", False), ("batch", True))
    if device.startswith("cuda"):
        kinds = (*kinds, ("captured", False))
    cases = [Case(work, name, live) for work, live in kinds for name in _names(more)]
    return _bench(preset, device, repeats, [cases])


def _bench(
    preset: Preset, device: str, repeats: int, rounds: Sequence[Sequence[Case]]
) -> SpeedReport:
    check(device, repeats)
    cuda = torch.device(device).type == "cuda"
    names = tuple(dict.fromkeys(case.projector for cases in rounds for case in cases))
    every = () if cuda else tuple(case for cases in rounds for case in cases)
    memory = {case: peak_memory(preset, case, device) for case in every}
    found: list[Measured] = []
    with one_thread():
        runner = Runner(preset, names, device)
        for cases in rounds:
            if stage := cases[0].stage:
                runner.enter(stage)
            else:
                runner.answer()
            found += measure(runner, cases, repeats, memory)
    name = device_name(device)
    return SpeedReport(preset, name, peak_flops(name), tuple(found))


def measure(
    runner: Runner, cases: Sequence[Case], repeats: int, memory: dict[Case, int]
) -> list[Measured]:
    """Each case counted once, then timed `repeats` times, in turns.

    memory  peak bytes of the cases, as far as known; on a GPU the others are looked at while counting
    """
    for case in cases:
        runner.prepare(case)
    counted = {}
    for case in cases:
        with device_peak(runner, case, memory):
            counted[case] = _counted(runner, case)
    rates = device_rates(runner.device, getattr(torch, runner.preset.dtype))
    meter = Meter(clock(runner.device))
    seconds: dict[Case, list[dict[str, float]]] = {case: [] for case in cases}
    inside: dict[Case, list[dict[str, float]]] = {case: [] for case in cases}
    for _ in range(repeats):
        for case in cases:
            meter.start()
            runner.run(case, meter.lap)
            seconds[case].append(meter.parts)
            inside[case].append(meter.inside)
    return [
        Measured(
            case=case,
            seconds=tuple(seconds[case]),
            inside=tuple(inside[case]),
            flops=counted[case][0],
            formula=_formula(runner, case, counted[case][1]),
            tokens=tuple(counted[case][1]),
            memory=memory[case],
            predicted=_predicted(case, counted[case][2], rates),
        )
        for case in cases
    ]


def _names(more: Sequence[str]) -> tuple[str, ...]:
    """The projectors to compare, each once. Raises ConfigError for an unknown one."""
    for name in more:
        projector_class(name)
    return tuple(dict.fromkeys((*PROJECTORS, *more)))


def _counted(runner: Runner, case: Case) -> tuple[dict[str, float], list[int], dict[str, Kernels]]:
    """Operations by component, visual tokens of each image, and kernels by component."""
    # Inside of a graph nothing is seen: the same answer is counted as it is without.
    plain = replace(case, work="forward") if case.work == "captured" else case
    with FlopCounterMode(display=False) as counter, KernelCounter() as kernels:
        meter = Meter(lambda: float(counter.get_total_flops()))
        meter.start()

        def lap(part: str) -> None:
            meter.lap(part)
            kernels.lap(part)

        tokens = runner.run(plain, lap)
    return meter.parts, tokens, kernels.parts


def _predicted(case: Case, parts: Mapping[str, Kernels], rates: DeviceRates) -> dict[str, float]:
    """Seconds by component; a graph costs the host nothing."""
    if case.work != "captured":
        return {part: rates.seconds(kernels) for part, kernels in parts.items()}
    inside = [kernels for part, kernels in parts.items() if part != "copy"]
    return {CAPTURED: sum(rates.device_seconds(kernels) for kernels in inside)}


def _formula(runner: Runner, case: Case, tokens: Sequence[int]) -> float | None:
    """Model FLOPs of the LLM; None where the LLM is not apart, and for generation by single ids."""
    if case.work in ("generate", "captured"):
        return None
    text, answers = runner.text(case)
    lm, training = runner.models[case.projector].lm, case.work == "train"
    words = answers * len(tokens) if training else 0
    return llm_flops(lm, [text - 1 + n for n in tokens], words, training=training)


def device_name(device: str) -> str:
    """Name of the device that `clock` times, for reports."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return "one CPU thread"


def clock(device: torch.device) -> Callable[[], float]:
    """Reads seconds: of a CPU's process, or of the clock when a GPU has done its work."""
    if device.type == "cpu":
        return time.process_time

    def synchronised() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return synchronised


def check(device: str, repeats: int) -> None:
    """Raise ConfigError for a device that is not there, or no repetition."""
    if repeats < 1:
        raise ConfigError(f"repeats={repeats}: need >= 1")
    usable_devices(ExecutorOptions(device=device))  # refuses what is not there
