"""GPU-hours and memory of a training run of the paper's size, from its recipe.

Operations are counted on models without weights; a stated share of the peak is assumed, and every
pass over a micro-batch also reads the language model's weights once, which is what small
micro-batches wait for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ...model.projectors import Projector
from ...model.projectors.base import MaskInput
from ..data.cache_fit import llama_shape
from ..factory import outline
from ..options import TrainFlags, resolve_train
from ..recipe import ModelConfig, StageConfig, TrainRecipe, micro_batches
from ..trainer.prepare import make_ready
from .activations import LanguageModel
from .flops import llm_flops, matrices
from .gpus import Gpu
from .memory import CONTEXT, SLACK
from .sizing import LARGEST, SHARE

TEXT = 72 + 2 * 28  # text ids of a dialogue of three sentences (bench/presets.py, bench/inputs.py)
ANSWERS = 3 * 8  # supervised ids
BUDGET = 0.9  # of the device's memory, as `train.estimates.sizing`
GRID = 24, 24  # patches of the paper's view
MASK_SIDE = 64  # of the SSPE's masks


class Reference:
    """The paper's model on the meta device, as its second stage trains it; made once."""

    def __init__(self, changes: Sequence[str], processes: int) -> None:
        self.recipe, _ = resolve_train("paper", None, TrainFlags(), changes, weights=False)
        self.processes = processes

    @property
    def model(self) -> "Counted":
        """Adapters included."""
        return _model(self.recipe.model.model_dump_json(), self.recipe.stages[-1].model_dump_json())

    def hours(self, recipe: TrainRecipe, tokens: int, flops: float, gpu: Gpu) -> float:
        """GPU-hours of one run of `recipe`; `tokens` visual ones per image, `flops` of the projector's
        forward pass on one image."""
        model, length = self.model, [tokens + TEXT]
        # Forward, and back through activations and trained weights.
        each = llm_flops(model.lm, length, ANSWERS, training=True, counted=model.matrices)
        each += 3 * flops
        reads = 2
        if recipe.run.recompute:  # the layers' forward pass once more
            each += llm_flops(model.lm, length, 0, training=False, counted=model.matrices)
            reads += 1
        each_pass = reads * model.layers / gpu.bandwidth / recipe.run.images
        images = recipe.steps * recipe.global_batch
        return float(images * (each / (SHARE * gpu.peak) + each_pass) / 3600)

    def sized(
        self, recipe: TrainRecipe, tokens: int, projector: int, flops: float, gpu: Gpu
    ) -> TrainRecipe:
        """The recipe with `auto` chosen: the fastest that fits `gpu`, else what needs least.

        Raises ConfigError where the global batch cannot be divided over the processes.
        """
        run, auto = recipe.run, "auto"
        again = (False, True) if run.gradient_checkpointing == auto else (run.recompute,)
        shares = micro_batches(recipe, self.processes, LARGEST)
        options = [
            recipe.model_copy(update={"run": run.model_copy(update={
                "micro_batch": micro, "gradient_checkpointing": recompute})})
            for micro in shares for recompute in again
        ]  # fmt: skip
        need = {id(one): self.memory(one, tokens, projector) for one in options}
        fitting = [one for one in options if need[id(one)] <= BUDGET * gpu.memory]
        if not fitting:
            return min(options, key=lambda one: need[id(one)])
        return min(fitting, key=lambda one: self.hours(one, tokens, flops, gpu))

    def memory(self, recipe: TrainRecipe, tokens: int, projector: int) -> int:
        """Bytes of a process: weights, gradients, optimizer, and what the language model keeps."""
        model, micro = self.model, recipe.run.images
        trained, weights = model.trained + projector, model.weights + 4 * projector
        kept, _ = model.sizes.kept(micro * (tokens + TEXT), recipe.run.recompute)
        head, _ = model.sizes.head(micro * ANSWERS)
        # Gradients 4, AdamW 8, a bfloat16 copy 2; several processes: the gradients' buckets 4.
        used = weights + (14 + 4 * (self.processes > 1)) * trained + kept + head
        return CONTEXT + int((1 + SLACK) * used)


@dataclass(frozen=True)
class Counted:
    """Sizes of a model without weights; one of 7B has a thousand tensors, so they are read once.

    weights, trained  bytes, and numbers that train, of everything but the projector
    layers            bytes of the language model's layers
    """

    lm: Any
    sizes: LanguageModel
    matrices: tuple[int, int]
    weights: int
    trained: int
    layers: int


@cache
def _model(config: str, stage: str) -> Counted:
    """Some seconds of work for a model of 7B with adapters, so it is made once per process."""
    recipe = TrainRecipe(
        model=ModelConfig.model_validate_json(config),
        stages=(StageConfig.model_validate_json(stage),),
    )
    model = outline(recipe, None, llama_shape(recipe).config())
    make_ready(model, recipe, 0)
    lm: Any = model.lm
    own = {id(p) for p in model.projector.parameters()}
    rest = [p for p in model.parameters() if id(p) not in own]
    return Counted(
        lm,
        LanguageModel.of(lm, torch.bfloat16),
        matrices(lm),
        sum(p.numel() * p.dtype.itemsize for p in rest),
        sum(p.numel() for p in rest if p.requires_grad),
        sum(p.numel() * p.dtype.itemsize for p in lm.model.layers.parameters()),
    )


def projector_flops(made: Projector, superpixels: int, grid: tuple[int, int] = GRID) -> float:
    """FLOPs of one image's forward pass; moves `made` to the meta device, where it is unusable.

    superpixels  of the image; its patches are of so many different kinds, too

    What looks at values (which superpixels are real) or at the device's precision needs real zeros.
    """
    made.requires_grad_(False)
    if "masks" not in made.needs:
        try:
            return _counted(made, superpixels, "meta", grid)
        except (RuntimeError, NotImplementedError):
            pass
    made.to_empty(device="cpu")
    for parameter in made.parameters():
        parameter.zero_()
    return _counted(made, superpixels, "cpu", grid)


def _counted(made: Projector, superpixels: int, device: str, grid: tuple[int, int]) -> float:
    patches = grid[0] * grid[1]
    kind = torch.arange(patches, device=device) * superpixels // patches
    features = torch.nn.functional.one_hot(kind % made.in_dim, made.in_dim).float()
    sides = (MASK_SIDE, MASK_SIDE)
    masks = MaskInput(
        torch.zeros(1, superpixels, patches, device=device),
        torch.zeros(1, superpixels, *sides, dtype=torch.uint8, device=device),
    )
    with FlopCounterMode(display=False) as counter:
        made(
            features[None],
            grid,
            cls=torch.zeros(1, made.in_dim, device=device),
            multi=torch.zeros(1, patches, made.multi_dim, device=device),
            masks=masks,
            mask_valid=torch.ones(1, superpixels, dtype=torch.bool, device=device),
        )
    return float(counter.get_total_flops())
