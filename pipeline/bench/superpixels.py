"""`svp bench superpixels`: decoder outputs to superpixels, against the published code.

Both get the same stored low-resolution logits (`synthetic_masks`), run one after the other in this
process, and are timed in CPU seconds by stage, so other load on the machine hardly matters. The
results must be the same masks, levels and order, or the report says so.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..display import Report, counted
from ..errors import ConfigError
from ..process import one_thread
from ..recipe import GridConfig
from ..records import Superpixels
from ..sam.preprocess import target_size
from ..superpixels import threshold
from ..superpixels.point_grid import GridPrompter
from .prompt_modes import compare_hierarchical, compare_modes, difference
from .sam_baseline import Found, Watch, published_superpixels
from .synthetic_masks import SAM_LOW, DecoderOutputs, Replay, decoder_outputs

if TYPE_CHECKING:
    from ..sam.mask_decoder import Wanted

TARGETS = {"selection": 40.0, "whole": 3.0, "decoder": 0.15}


@dataclass(frozen=True, slots=True)
class SuperpixelsReport(Report):
    """Measurements; `ok` if every target is met and the results agree."""

    text: tuple[str, ...]
    figures: dict[str, Any]
    ok: bool

    @property
    def exit_code(self) -> int:
        """1 if a target was missed or a result differs."""
        return 0 if self.ok else 1

    def lines(self) -> tuple[str, ...]:
        return self.text

    def to_json(self) -> dict[str, Any]:
        return self.figures


def run(
    *,
    prompts: int = 1024,
    size: tuple[int, int] = (480, 640),
    seed: int = 0,
    low: int = SAM_LOW,
    scenes: int = 20,
) -> SuperpixelsReport:
    """Measures both paths on stored outputs; the targets are meant for the defaults.

    prompts  a square number; low: side of the logits (SAM: 256); size: (H,W) of the image
    scenes   generated scenes on which the modes are compared with the tiny SAM; 0: not at all
    Takes 2 to 3 minutes of CPU and up to 10 GB (the published path). Raises ConfigError if `prompts` is no square, and
    MissingPackageError without OpenCV, which segment-anything's clean-up needs.
    """
    side = round(prompts**0.5)
    if side < 1 or side * side != prompts:
        raise ConfigError(f"prompts={prompts}: need a square number, such as 256 or 1024")
    config = GridConfig(points_per_side=side)
    with one_thread():
        outputs = decoder_outputs(side, *size, seed, low)
        ours, watch = _measure(outputs, size, config, "exact")
        fast, fast_watch = _measure(outputs, size, config, "fast")
        baseline_watch = Watch()
        baseline = published_superpixels(outputs, size, config, baseline_watch)
    figures: dict[str, Any] = {
        "prompts": side * side,
        "size": list(size),
        "survivors": dict(ours.survivors),
        "superpixels": len(ours),
        "published": _stages(baseline_watch),
        "exact": _stages(watch),
        "fast": _stages(fast_watch),
        "same": _same(ours, baseline),
        "fast_difference": difference([ours], [fast]),
        "models": compare_modes(scenes) if scenes else {},
        "hierarchical": compare_hierarchical(scenes) if scenes else {},
        "decoder_flops": _decoder_flops(side * side),
    }
    return _report(figures)


class _Stored:
    """A `SamBackend` that hands out stored outputs in order."""

    report, channels = None, 1

    def __init__(self, outputs: DecoderOutputs) -> None:
        self._replay = Replay(outputs)
        self.image_size = outputs.image_size

    def frame(self, height: int, width: int) -> tuple[int, int]:
        return target_size(height, width, self.image_size)

    def embed(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        return torch.zeros(len(images), 1, 1, 1)

    def decode(
        self, features: Tensor, points: Tensor, wanted: "Wanted | None" = None
    ) -> tuple[Tensor, Tensor]:
        return self._replay.next(len(points), wanted)


def _measure(
    outputs: DecoderOutputs, size: tuple[int, int], config: GridConfig, mode: Any
) -> tuple[Superpixels, Watch]:
    backend, watch = _Stored(outputs), Watch()
    backend.decode = watch.timed("decode", backend.decode)  # type: ignore[method-assign]
    prompter = GridPrompter(backend, config=config, mode=mode)
    image = np.zeros((*size, 3), np.uint8)
    with _watched(threshold, "upscaled", watch.timed("upscale", threshold.upscaled)):
        found: Superpixels = watch.timed("total", prompter.generate)(image)
    return found, watch


@contextmanager
def _watched(module: ModuleType, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """`module.name` is `function` for a while."""
    before = getattr(module, name)
    setattr(module, name, function)
    try:
        yield
    finally:
        setattr(module, name, before)


def _stages(watch: Watch) -> dict[str, float]:
    """decode (handing out), upscale, selection (all the rest), total, in CPU seconds."""
    seconds = watch.seconds
    rest = seconds["total"] - seconds["decode"] - seconds.get("upscale", 0.0)
    return {
        "decode": seconds["decode"],
        "upscale": seconds.get("upscale", 0.0),
        "selection": rest,
        "total": seconds["total"],
    }


def _same(ours: Superpixels, baseline: Found) -> bool:
    return ours.rles == baseline.counts and ours.level.tolist() == baseline.level.tolist()


def _decoder_flops(prompts: int) -> dict[str, float]:
    from ..sam.build import build_sam
    from ..sam.mask_decoder import decoder_flops

    published, ours = decoder_flops(build_sam("vit_b"), prompts)
    return {"published": published, "ours": ours, "saved": 1 - ours / published}


def _report(figures: dict[str, Any]) -> SuperpixelsReport:
    baseline, exact, fast = figures["published"], figures["exact"], figures["fast"]
    ratios = {
        "selection": baseline["selection"] / exact["selection"],
        "whole": baseline["total"] / exact["total"],
        "whole_fast": baseline["total"] / fast["total"],
        "decoder": figures["decoder_flops"]["saved"],
    }
    ok = figures["same"] and all(ratios[name] >= target for name, target in TARGETS.items())
    return SuperpixelsReport(
        tuple(_lines(figures, ratios)), {**figures, "ratios": ratios, "ok": ok}, ok
    )


def _lines(figures: dict[str, Any], ratios: dict[str, float]) -> Iterator[str]:
    height, width = figures["size"]
    steps = " > ".join(f"{name} {count}" for name, count in figures["survivors"].items())
    yield f"{counted(figures['prompts'], 'prompt')}, image {width} x {height}, masks: {steps}"
    yield f"{'CPU seconds, one thread':26}{'published':>10}{'exact':>10}{'fast':>10}"
    for stage in ("decode", "upscale", "selection", "total"):
        times = (figures[path][stage] for path in ("published", "exact", "fast"))
        yield f"  {stage:24}" + "".join(f"{seconds:10.3f}" for seconds in times)
    yield f"selection after up-sampling {ratios['selection']:.1f}x (target {TARGETS['selection']:.0f}x)"
    yield (
        f"logits to superpixels {ratios['whole']:.1f}x exact (target {TARGETS['whole']:.0f}x), "
        f"{ratios['whole_fast']:.1f}x fast"
    )
    flops = figures["decoder_flops"]
    yield (
        f"decoder {flops['ours'] / 1e12:.2f} TFLOP, published {flops['published'] / 1e12:.2f}: "
        f"{flops['saved']:.0%} fewer (target {TARGETS['decoder']:.0%})"
    )
    yield f"exact and published superpixels are {'the same' if figures['same'] else 'DIFFERENT'}"
    yield f"fused up-sampling: {_changes(figures['fast_difference'])}"
    for name, change in figures["models"].items():
        yield f"tiny SAM, {name}: {_changes(change)}"
    if part := figures["hierarchical"]:
        yield (
            f"tiny SAM, preset hierarchical on {counted(part['images'], 'scene')}: {part['prompts']:.0f} "
            f"of 1024 prompts, {part['saved']:.0%} saved; {part['mean_other']:.2f} superpixels per image, "
            f"{part['mean_dense']:.2f} of the whole grid; partners of IoU >= 0.9: {part['found']:.1%} of "
            f"the whole grid's, {part['real']:.1%} of these"
        )


def _changes(change: dict[str, float]) -> str:
    return (
        f"of {change['superpixels']} superpixels {change['changed']} differ in some "
        f"pixel, {change['missing']} are missing, {change['added']} are new; "
        f"{change['pixels_flipped']:.1e} of the pixels flipped"
    )
