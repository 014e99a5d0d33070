"""Automatic micro-batch and checkpointing: the fastest setting that fits the device.

Memory comes from the estimate of `memory` for one image and grows with the images; time from
operation counts and from reading the language model's weights once a pass, which is what small
micro-batches wait for. The global batch stays: a micro-batch must divide each process's share.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ...model.batch import Batch
from ...model.ris import RisModel
from ..recipe import TrainRecipe, micro_batches
from .activations import LanguageModel
from .flops import layers_train, llm_flops
from .gpus import GPUS, Gpu
from .memory import CONTEXT, GIB, SLACK, Line, MemoryEstimate, estimate_memory, small_parts

BUDGET = 0.9  # of the device's memory
LARGEST, LARGEST_CPU = 64, 8  # more images at once bring no speed
SHARE = 0.25  # of the peak: 0.29 and 0.22 in the stages on an H200 (docs/benchmarks.md)
CPU = Gpu("CPU", 0, 2e11, 2e10)
# Items of the estimate that grow with the images; the others stay, but for the slack.
GROWING = ("batch", "projector", "language model", "vocabulary", "mask decoder, losses")
# Items of the estimate that are divided over the processes at each level of ZeRO.
DIVIDED: tuple[tuple[str, ...], ...] = (
    (),
    ("optimizer",),
    ("optimizer", "gradients"),
    ("optimizer", "gradients", "weights", "autocast copies"),
)


@dataclass(frozen=True)
class Demand:
    """Needs of a process in the last stage.

    fixed       bytes of weights, gradients and optimizer
    flops       of an image's step: forward and backward, and the forward pass of the layers again
    weights     bytes of the language model's layers, read once a pass
    one         the estimates of one image on one process, without and with checkpointing
    """

    fixed: int
    one: tuple[MemoryEstimate, MemoryEstimate]
    flops: tuple[float, float]
    weights: int

    def bytes(self, micro: int, recompute: bool) -> int:
        """Peak device memory."""
        return CONTEXT + int((1 + SLACK) * (self.fixed + micro * _growing(self.one[recompute])))

    def seconds(self, micro: int, recompute: bool, gpu: Gpu) -> float:
        """Per image, on one `gpu`, at SHARE of its peak."""
        again = self.flops[1] if recompute else 0.0
        read = (2 + recompute) * self.weights / gpu.bandwidth / micro
        return (self.flops[0] + again) / (SHARE * gpu.peak) + read


@dataclass(frozen=True)
class Choice:
    """Images per pass and whether layers are recomputed; `need` in bytes of `memory`."""

    micro: int
    recompute: bool
    need: int
    memory: int

    @property
    def fits(self) -> bool:
        """Whether the estimate is within the device's memory."""
        return self.need <= self.memory

    def line(self) -> str:
        """For people."""
        kept = "layers recomputed" if self.recompute else "all activations kept"
        fits = "" if self.fits else ": DOES NOT FIT"
        return (
            f"micro-batch {self.micro}, {kept}: {self.need / GIB:.1f} of "
            f"{self.memory / GIB:.0f} GiB{fits}"
        )


def demand(
    recipe: TrainRecipe, model: RisModel, image: Batch, processes: int = 1, zero: int = 0
) -> Demand:
    """The demand of `model`, as its last stage trains it, for images like `image` (a batch of one).

    model  on the meta device
    zero   how much is divided over the processes (`trainer.prepare.zero_level`)
    """
    dtype = torch.bfloat16 if recipe.model.dtype == "bfloat16" else None
    kept = estimate_memory(
        model, image, optimizer=recipe.optimizer, checkpointing=False, autocast=dtype
    )
    fixed = fixed_bytes(kept, processes, zero)
    lm: Any = model.lm
    small = small_parts(model).requires_grad_(False)  # a copy: `model` has no values
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        _, valid = small.tokens(image)
    length = int((image.lengths - 1 + valid.sum(1)).max())
    answers = int((image.labels >= 0).sum())
    forward = llm_flops(lm, [length], 0, training=False)
    each = llm_flops(lm, [length], answers, training=True, whole=layers_train(lm))
    each += 3 * counter.get_total_flops()
    weights = sum(p.numel() * p.dtype.itemsize for p in lm.model.layers.parameters())
    less = LanguageModel.of(lm, dtype).kept(length, checkpointing=True)
    again = tuple(Line(i.what, *less) if i.what == "language model" else i for i in kept.items)
    return Demand(fixed, (kept, MemoryEstimate(again)), (each, forward), weights)


def fixed_bytes(found: MemoryEstimate, processes: int, zero: int) -> int:
    """Bytes that do not grow with the images, on one of `processes` processes."""
    own = {
        item.what: item.bytes // (processes if item.what in DIVIDED[zero] else 1)
        for item in found.items
        if not item.host and item.what not in (*GROWING, SLACK_ITEM)
    }
    buckets = own["gradients"] if processes > 1 and not zero else 0  # DDP's, a copy of them
    return sum(own.values()) + buckets


def choose(
    recipe: TrainRecipe, need: Demand, gpu: Gpu, processes: int = 1, largest: int = LARGEST
) -> Choice:
    """Micro-batch of the recipe; for `auto` the fastest that fits `gpu`, else the smallest.

    Raises ConfigError where the global batch cannot be divided so.
    """
    run, sizes = recipe.run, micro_batches(recipe, processes, largest)
    kinds = (False, True) if run.gradient_checkpointing == "auto" else (run.recompute,)
    every = [Choice(n, kind, need.bytes(n, kind), gpu.memory) for n in sizes for kind in kinds]
    fitting = [one for one in every if one.need <= BUDGET * gpu.memory]
    if not fitting:
        return min(every, key=lambda one: one.need)
    return min(fitting, key=lambda one: (need.seconds(one.micro, one.recompute, gpu), one.micro))


def settled(recipe: TrainRecipe, choice: Choice) -> TrainRecipe:
    """The recipe with what was chosen in place of `auto`; its digest is the same."""
    run = recipe.run.model_copy(
        update={"micro_batch": choice.micro, "gradient_checkpointing": choice.recompute}
    )
    return recipe.model_copy(update={"run": run})


def this_device(device: torch.device, ranks_here: int = 1) -> Gpu:
    """The device of a process: a GPU as a whole, or its share of this machine's memory.

    The whole memory, not the free part: the same machine chooses the same every time.
    """
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        known = (gpu for gpu in GPUS.values() if gpu.name.split(" (")[0] in found.name)
        like = next(known, GPUS["a100"])
        return Gpu(found.name, found.total_memory, like.peak, like.bandwidth)
    import psutil

    return Gpu("CPU", psutil.virtual_memory().total // max(1, ranks_here), CPU.peak, CPU.bandwidth)


SLACK_ITEM = "context, slack"


def _growing(found: MemoryEstimate) -> int:
    return sum(item.bytes for item in found.items if item.what in GROWING)
