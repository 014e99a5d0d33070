"""Tables of the GPUs that training and caches of the shipped recipes fit, by the estimates alone.

`svp doctor --gpus` prints the tables of docs/hardware.md. Nothing is measured and no weights, data or
GPU are needed: memory is that of `train.estimates.memory`, time that of operation counts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...pipeline.display import Report
from ...pipeline.precompute.cost_model import Estimate, estimate
from ...pipeline.precompute.launch import Request, priced_plan
from ..estimates.gpus import GPUS
from ..estimates.memory import GIB
from ..estimates.sizing import demand
from ..estimates.typical_batch import typical_image
from ..factory import language_of, outline
from ..options import Places, TrainFlags, resolve_train
from ..trainer.prepare import make_ready
from .dry_run import Priced, planned, price_on

TRAINING: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("svp train --size paper", "paper", ()),
    ("svp train --size paper --optimizer adamw8bit", "paper", ("optimizer=adamw8bit",)),
    ("svp train --size paper --optimizer offload", "paper", ("optimizer=offload",)),
    ("svp train --size small", "small", ()),
)
CACHES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("svp precompute --size paper", "paper", ()),
    (
        "svp precompute --size paper --mode fast --dtype bfloat16",
        "paper",
        ("superpixels.mode=fast", "superpixels.dtype=bfloat16"),
    ),
    ("svp precompute --size small", "small", ()),
)
IMAGES = 1000


@dataclass(frozen=True)
class Hardware(Report):
    """Each command with its price per GPU, in the order of `GPUS`."""

    training: tuple[tuple[str, tuple[Priced, ...]], ...]
    caches: tuple[tuple[str, tuple[Estimate, ...]], ...]

    def lines(self) -> list[str]:
        names = [f"{gpu.name.split(' (')[0]}, {gpu.memory / GIB:.0f} GiB" for gpu in GPUS.values()]
        training = [(f"`{command}`", *map(_training, found)) for command, found in self.training]
        caches = [
            (f"`{command}`", _gigabytes(found[0].total_bytes), _gigabytes(found[0].memory["device"]),
             *(f"{one.worker_hours:.2f} h" for one in found))
            for command, found in self.caches
        ]  # fmt: skip
        return [
            *_table(("training", *names), training),
            "",
            *_table((f"cache of {IMAGES:,} images", "disk", "GPU memory", *names), caches),
        ]

    def to_json(self) -> dict[str, object]:
        return {
            "training": {
                command: {
                    one.gpu.name: {
                        "micro_batch": one.choice.micro,
                        "gradient_checkpointing": one.choice.recompute,
                        "memory": one.choice.need,
                        "fits": one.choice.fits,
                        "hours": one.hours,
                    }
                    for one in found
                }
                for command, found in self.training
            },
            "caches": {
                command: {one.device: one.to_json() for one in found}
                for command, found in self.caches
            },
        }


def hardware() -> Hardware:
    """The tables. Some seconds of one core: models of 7B are laid out without their weights."""
    return Hardware(
        tuple((command, tuple(_priced(size, changes))) for command, size, changes in TRAINING),
        tuple((command, tuple(_estimates(size, changes))) for command, size, changes in CACHES),
    )


def _priced(size: str, changes: Sequence[str]) -> Iterator[Priced]:
    recipe, _ = resolve_train(size, None, TrainFlags(), changes, weights=False)
    plan = planned(recipe, size)
    model = outline(recipe, plan, language_of(recipe, Places()))
    for index in range(len(recipe.stages)):
        make_ready(model, recipe, index)
    need = demand(recipe, model, typical_image(recipe, plan))
    for gpu in GPUS.values():
        yield price_on(recipe, need, gpu)


def _estimates(size: str, changes: Sequence[str]) -> Iterator[Estimate]:
    plan = priced_plan(
        Request(dataset="", split=None, out=Path(), size=size, overrides=tuple(changes))
    )
    for name in GPUS:
        yield estimate(plan, IMAGES, device=name)


def _training(one: Priced) -> str:
    choice = one.choice
    if not choice.fits:
        return f"no ({choice.need / GIB:.1f} GiB)"
    again = ", layers recomputed" if choice.recompute else ""
    return f"{one.hours:.1f} h ({choice.need / GIB:.1f} GiB, micro-batch {choice.micro}{again})"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
