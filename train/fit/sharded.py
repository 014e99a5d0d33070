"""Weights split over processes by FSDP2: lent out for a stage, whole for everything else.

For a stage the job's model lends its parameters to a twin, which accelerate splits; the model itself
stays an ordinary module without values. Evaluation, pictures, the next stage and checkpoints see
whole tensors under the names they always have, so no file tells how many processes wrote it.

The split keeps every parameter's own dtype (trained float32, frozen bfloat16) and the forward pass
runs under autocast, as without a split: the arithmetic is that of one process. It costs 4 instead of
2 bytes per trained number when a unit is gathered; gradients are summed in float32.
"""

import copy
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ...model.ris import RisModel
from ...pipeline.errors import ConfigError

if TYPE_CHECKING:
    from accelerate import Accelerator

UNIT = "LlamaDecoderLayer"  # gathered one at a time; what is around the layers is the root's unit


def fsdp_plugin(optimizer: str) -> Any:
    """What `accelerate launch` says of FSDP, None if it was not asked for.

    optimizer  of the recipe. Raises ConfigError for DeepSpeed and settings that are not supported.
    """
    if _flag("ACCELERATE_USE_DEEPSPEED"):
        raise ConfigError(
            "DeepSpeed is not supported: under accelerate it takes the optimizer's step inside the "
            "backward pass, before a non-finite gradient can be refused. FSDP splits as much: "
            "--use_fsdp --fsdp_version 2 is like ZeRO-3, with --fsdp_reshard_after_forward false "
            "nearest to ZeRO-2"
        )
    if not _flag("ACCELERATE_USE_FSDP"):
        return None
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise ConfigError(
            "FSDP 1 flattens parameters, and frozen and trained ones cannot share a unit: set "
            "fsdp_version: 2 in accelerate's configuration (--fsdp_version 2)"
        )
    if _flag("FSDP_ACTIVATION_CHECKPOINTING"):
        raise ConfigError(
            "fsdp_activation_checkpointing renames parameters: leave it out and use the recipe's "
            "own (--set run.gradient_checkpointing=true)"
        )
    if optimizer == "adamw8bit":
        raise ConfigError(
            "optimizer adamw8bit cannot be split over processes: use adamw, whose states FSDP "
            "splits, or offload"
        )
    from accelerate import FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import MixedPrecisionPolicy

    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy=os.environ.get("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP"),
        transformer_cls_names_to_wrap=os.environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP", UNIT).split(
            ","
        ),
        mixed_precision_policy=MixedPrecisionPolicy(),
        # It would broadcast a state dict of parameters only, and fail at SAM's buffers.
        cpu_ram_efficient_loading=False,
    )


def shard_on_cpu(accelerator: "Accelerator", plugin: Any) -> None:
    """Let CPU processes split as well; accelerate reads its FSDP settings for GPUs only."""
    from accelerate import DistributedType

    if plugin is not None and accelerator.distributed_type == DistributedType.MULTI_CPU:
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin


def is_sharded(accelerator: "Accelerator") -> bool:
    """Whether this run splits its weights."""
    return str(accelerator.distributed_type.value) == "FSDP"


def lend(model: RisModel) -> RisModel:
    """A twin with the parameters and buffers of `model`, which keeps names and shapes only."""
    lent: list[Tensor] = [*model.parameters(), *model.buffers()]
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in lent})
    empty(model)
    return twin


def empty(model: nn.Module) -> None:
    """Free the parameters' values; buffers, which are small and shared with the twin, stay."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            hollow = torch.empty_like(parameter, device="meta")
            setattr(module, name, nn.Parameter(hollow, requires_grad=parameter.requires_grad))


def fill(model: RisModel, twin: nn.Module, device: torch.device | str) -> None:
    """Give `model` the twin's values, whole, on `device`; a collective of all ranks."""
    state = collect(twin.state_dict().items(), device=device)
    model.load_state_dict(state, assign=True)
    model.to(device)  # buffers that are no part of the state


@contextmanager
def filled(model: RisModel, twin: nn.Module, device: torch.device) -> Iterator[None]:
    """`model` can be called meanwhile, on every rank as often as it likes; needs room for it."""
    fill(model, twin, device)
    try:
        yield
    finally:
        empty(model)


def whole(value: Tensor) -> Tensor:
    """`value` itself, or all of it if it is split; then a collective of all ranks."""
    if not isinstance(value, DTensor):
        return value
    # States kept in the computer's memory travel by the device the ranks talk with.
    moved = value.to(value.device_mesh.device_type)
    assert isinstance(moved, DTensor)
    full: Tensor = moved.full_tensor()
    return full


def collect(
    named: Iterable[tuple[str, Tensor]], *, keep: bool = True, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Whole tensors on `device`, one at a time; ranks that do not `keep` them still take part."""
    found = {}
    for name, value in named:
        full = whole(value.detach())
        if keep:
            found[name] = full.to(device)
    return found


def split_like(value: Tensor, parameter: Tensor) -> Tensor:
    """This rank's part of `value`, which all ranks hold, split as `parameter` is (if it is)."""
    if not isinstance(parameter, DTensor):
        return value
    mesh, placements = parameter.device_mesh, parameter.placements
    part: Tensor = distribute_tensor(value, mesh, placements, src_data_rank=None)
    return part


def _flag(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("true", "1", "yes")
