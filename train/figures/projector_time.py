"""Fig. 10, detail: time of the run's projector on its cache, by SSPE, SSA and MLP."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median_low

import torch

from ...model.batch import Visual
from ...model.projectors import Projector
from ...pipeline.display import counted, shorten
from ...pipeline.process import one_thread
from ..bench.components import INSIDE, Meter, inside
from ..bench.speed import clock, device_name
from ..evaluation.results import Row
from . import canvas
from .canvas import Picture
from .inputs import Material, one_per_image, project
from .latency import PAPER, stack_table, stacks

IMAGES, REPEATS = 8, 5


@dataclass(frozen=True, slots=True)
class Timed:
    """One image: its visual tokens, and the median run's seconds of the whole and by part.

    The parts are laps of one stopwatch, so they sum to the whole.
    """

    tokens: int
    whole: float
    parts: Mapping[str, float]


def projector_time(made: Material, device: str) -> Picture:
    """A bar per image, and one of their mean. `device` is torch's name of it."""
    name, title, paper = "projector", "Inside the projector", "Fig. 10"
    projector = made.trained.model.projector
    with inside(projector, lambda part: None) as rest:
        told = rest != "projector"
    if not told:
        kind = made.trained.recipe.model.projector.name
        text = f"The projector {kind} of this run has no SSPE, SSA and MLP to tell apart."
        return Picture(name, title, paper, text)
    half = next(made.trained.model.lm.model.layers.parameters()).dtype == torch.bfloat16
    rows = one_per_image(made.rows, IMAGES)
    timed = time_images(projector, [made.visual(row) for row in rows], device, half=half)
    bars = _bars(timed, rows)
    head, table = stack_table(bars, INSIDE, [sum(parts.values()) for _, parts in bars])
    return Picture(name, title, paper, _text(timed, rows, device), _draw(bars), head, table)


def time_images(
    projector: Projector, images: Sequence[Visual], device: str, *, half: bool
) -> list[Timed]:
    """Time each image alone, `REPEATS` times after a warm-up run.

    half  arithmetic in bfloat16, as where the language model's is. The projector is back on its
    device afterwards.
    """
    at, home = torch.device(device), next(projector.parameters()).device
    meter = Meter(clock(at))
    found = []
    projector.to(at)
    try:
        with one_thread(), torch.inference_mode(), torch.autocast(
            at.type, torch.bfloat16, enabled=half
        ), inside(projector, meter.lap) as rest:  # fmt: skip
            for image in images:
                there = image.map(lambda x: x.to(at))
                runs = []
                for _ in range(1 + REPEATS):
                    meter.start()
                    tokens = project(projector, there).shape[1]
                    meter.lap(rest)
                    runs.append((meter.parts["projector"], meter.inside))
                median = median_low(whole for whole, _ in runs[1:])
                whole, parts = next(run for run in runs[1:] if run[0] == median)
                found.append(Timed(tokens, whole, parts))
    finally:
        projector.to(home)
    return found


def means(timed: Sequence[Timed]) -> dict[str, float]:
    """Mean milliseconds of each part."""
    names = [name for name in INSIDE if name in timed[0].parts]
    return {name: 1e3 * mean(one.parts[name] for one in timed) for name in names}


def _text(timed: Sequence[Timed], rows: Sequence[Row], device: str) -> str:
    parts = means(timed)
    told = ", ".join(f"{name} {ms:.2f} ms" for name, ms in parts.items())
    where = device_name(device)
    slow = " A CPU's times say which part is the largest, not what a GPU would take."
    return (
        f"This run's projector on {shorten(where, 60)}, features and superpixels from the cache, one "
        f"image at a time: {sum(parts.values()):.2f} ms, mean of {counted(len(rows), 'image')} "
        "(median of "
        f"{REPEATS} runs each): {told}.{slow if torch.device(device).type == 'cpu' else ''} {PAPER}"
    )


def _bars(timed: Sequence[Timed], rows: Sequence[Row]) -> list[tuple[str, Mapping[str, float]]]:
    """(label, milliseconds by part): the mean, then the images by rising tokens."""
    pairs = sorted(zip(timed, rows, strict=True), key=lambda pair: pair[0].tokens)
    bars: list[tuple[str, Mapping[str, float]]] = [("mean", means(timed))]
    for one, row in pairs:
        label = f"image {row.image_id}, {counted(one.tokens, 'token')}"
        bars.append((label, {name: 1e3 * s for name, s in one.parts.items()}))
    return bars


def _draw(bars: Sequence[tuple[str, Mapping[str, float]]]) -> bytes:
    figure, ((axis,),) = canvas.grid(1, 1, width=8)
    stacks(axis, bars, INSIDE)
    figure.set_size_inches(8, 0.35 * len(bars) + 1.4)
    return canvas.png(figure)
