"""Prepare a stage: trainable parameters, optimizer, and the strategy for the devices.

A stage always starts a fresh optimizer. Adapters are put around the linears when the first stage
that wants them begins, so stage 1 pays nothing for them.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ...model.language.adapters import Lora, add_lora
from ...model.ris import RisModel
from ...model.trainable import TrainableTable, set_trainable
from ...pipeline.errors import ConfigError, MissingPackageError
from ...pipeline.process import compiles, require_own_gpus
from ..data.keyed_rng import key_of
from ..recipe import TrainRecipe
from .optimizers import build_optimizer
from .strategies.base import Strategy
from .strategies.deepspeed import (
    DeepSpeedZero2,
    DeepSpeedZero3,
    PartAdamW,
    require_deepspeed,
    split_on_cpu,
    zero_plugin,
)
from .strategies.fsdp import FSDP, fsdp_plugin, shard_on_cpu

if TYPE_CHECKING:
    from accelerate import Accelerator, PartialState


def join_group(device: str) -> None:
    """Join the processes that a launcher started, before anything is looked for on the disk.

    device  as for `make_accelerator`, which takes this group over. Nothing happens in a run of one
    process. Raises MissingPackageError, ConfigError.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) == 1:
        return
    try:
        from accelerate import PartialState
    except ImportError:
        raise MissingPackageError("accelerate", "train", "svp train") from None
    require_deepspeed()
    pin_gpu(device)
    PartialState(cpu=device == "cpu")


def make_accelerator(recipe: TrainRecipe, device: str) -> "Accelerator":
    """Devices, ranks and precision as `accelerate launch` or the environment says.

    device  cpu, cuda or cuda:N. Raises MissingPackageError; ConfigError for a GPU that only
    imitates bfloat16, and for ways to split weights that are not supported.
    """
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError:
        raise MissingPackageError("accelerate", "train", "svp train") from None
    _check_gpu(recipe, device)
    precision = "bf16" if recipe.model.dtype == "bfloat16" else "no"
    # SAM's decoder has parts that a single mask never uses; they get no gradient.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    zero, fsdp = zero_plugin(recipe), fsdp_plugin(recipe.optimizer)
    accelerator = Accelerator(
        mixed_precision=precision, cpu=device == "cpu", kwargs_handlers=[unused],
        deepspeed_plugin=zero, fsdp_plugin=fsdp,
    )  # fmt: skip
    # accelerate reads the settings of both for GPUs only.
    shard_on_cpu(accelerator, fsdp)
    split_on_cpu(accelerator, zero)
    return accelerator


def make_process_state(recipe: TrainRecipe, device: str) -> "PartialState":
    """Devices and ranks as of `make_accelerator`, without training and so without its precision,
    which accelerate fixes for the whole process.

    Raises what `make_accelerator` raises.
    """
    try:
        from accelerate import PartialState
    except ImportError:
        raise MissingPackageError("accelerate", "train", "svp eval") from None
    _check_gpu(recipe, device)
    return PartialState(cpu=device == "cpu")


def _check_gpu(recipe: TrainRecipe, device: str) -> None:
    # An imitated bfloat16 is refused before anything is loaded.
    pin_gpu(device)
    if (
        recipe.model.dtype == "bfloat16"
        and device != "cpu"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise ConfigError(
            "this GPU has no bfloat16 and would imitate it, many times slower: "
            "--set model.dtype=float32, or use a GPU of the Ampere generation or later"
        )


def zero_level(accelerator: "Accelerator") -> int:
    """Level of sharding over processes, as in DeepSpeed: 0 nothing, 1 optimizer states, 2 gradients
    too, 3 weights too (FSDP2 as well).
    """
    kind = accelerator.distributed_type.value
    if kind == "DEEPSPEED":
        return int(accelerator.deepspeed_plugin.zero_stage)
    return 3 if kind == "FSDP" else 0


def pin_gpu(device: str) -> None:
    """Make the GPU that `cuda:N` names the one that `cuda` means in this process.

    Raises ConfigError for one that is not there, and in a run of several processes, each of which
    takes its own.
    """
    index = device.partition(":")[2]
    if not device.startswith("cuda:") or not index.isdecimal():
        return
    require_own_gpus(device, int(os.environ.get("WORLD_SIZE") or 1))
    if int(index) >= (found := torch.cuda.device_count()):
        raise ConfigError(f"--device {device}: {found} CUDA devices found, counted from 0")
    torch.cuda.set_device(int(index))


def make_ready(
    model: RisModel,
    recipe: TrainRecipe,
    index: int,
    new_rows: Sequence[int] = (),
    *,
    single: bool = True,
) -> TrainableTable:
    """Set what trains in stage `index`, adapters included; what trains becomes float32.

    new_rows  ids of special tokens, used if the recipe trains only those rows
    single    False where `enter_stage` splits the weights (`zero_level` 3): what trains is made
              float32 after the split there, so that no process holds all of it so
    """
    stage = recipe.stages[index]
    has_lora = any("lora_" in name for name, _ in model.named_parameters())
    if any(earlier.lora for earlier in recipe.stages[: index + 1]) and not has_lora:
        # Values depend on the seed alone, not on what was drawn before.
        config = recipe.model.lora
        with torch.random.fork_rng():
            torch.manual_seed(key_of(recipe.seed, "lora"))
            add_lora(model.lm, Lora(config.r, int(config.alpha), config.dropout, config.targets))

    # A stage without adapters of its own keeps those of an earlier one, frozen.
    model.projector.set_sspe(stage.add_sspe)
    parts = (*stage.trains, "lora") if stage.lora else stage.trains
    rows = new_rows if recipe.model.new_rows_only else ()
    return set_trainable(model, parts, new_rows=rows, single=single)


def recompute(model: RisModel) -> None:
    """Let the language model's layers be computed again in the backward pass, to save memory."""
    lm = model.lm
    # Renamed in transformers 5.2x; the old name warns there.
    enable = getattr(lm, "activation_checkpointing_enable", lm.gradient_checkpointing_enable)
    enable({"use_reentrant": False})


def enter_stage(
    accelerator: "Accelerator", model: RisModel, recipe: TrainRecipe, index: int
) -> Strategy:
    """Optimizer and wrapper for stage `index`; call `make_ready` before.

    Raises ConfigError for a tied head where weights are split: its copies would part.
    """
    if zero_level(accelerator) == 3 and model.lm.config.tie_word_embeddings:
        raise ConfigError(
            "embedding and head of this language model are one matrix, which FSDP and ZeRO 3 would "
            "part: use one process, plain data parallelism or ZeRO 2"
        )
    stage = recipe.stages[index]
    # Used once and not kept: what is split lets its whole values go one after another.
    trained = (p for p in model.parameters() if p.requires_grad)
    accelerator.free_memory()  # of the stage before: its optimizer and wrapper

    # DeepSpeed gives every rank flat parts of the parameters; its optimizer is made for those.
    whole = zero_level(accelerator) < 3
    if whole and compiles(accelerator.device.type):
        model.projector.compile_project()
    if accelerator.distributed_type.value == "DEEPSPEED":
        parts = PartAdamW(trained, lr=stage.lr, betas=stage.betas, weight_decay=stage.weight_decay)
        half = recipe.model.dtype == "bfloat16"
        return (DeepSpeedZero2 if whole else DeepSpeedZero3)(accelerator, model, parts, half)
    optimizer = build_optimizer(recipe.optimizer, trained, stage, accelerator.device)
    return (Strategy if whole else FSDP)(accelerator, model, optimizer)
