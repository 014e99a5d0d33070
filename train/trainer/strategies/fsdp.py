"""FSDP2 strategy: weights, gradients and optimizer states sharded over processes.

The parameters move into a copy of the model for the stage (shard_copy.py); accelerate splits it.

The split keeps every parameter's own dtype (trained float32, frozen bfloat16) and the forward pass
runs under autocast, as without a split: the arithmetic is that of one process. It costs 4 instead of
2 bytes per trained number when a unit is gathered; gradients are summed in float32.
"""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from ....model.ris import RisModel
from ....pipeline.display import show
from ....pipeline.errors import ConfigError
from .shard_copy import ShardCopy

if TYPE_CHECKING:
    from accelerate import Accelerator


def fsdp_plugin(optimizer: str) -> Any:
    """FSDP plugin of `accelerate launch`, None if it is not configured.

    optimizer  of the recipe. Raises ConfigError for settings that are not supported.
    """
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

    given = os.environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP")
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy=os.environ.get("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP"),
        transformer_cls_names_to_wrap=given.split(",") if given else None,
        mixed_precision_policy=MixedPrecisionPolicy(),
        # It would broadcast a state dict of parameters only, and fail at SAM's buffers.
        cpu_ram_efficient_loading=False,
    )


def units(lm: Any, given: Sequence[str] | None) -> list[str]:
    """Names of the classes whose modules are gathered one at a time; what is around them is one unit.

    given  what the configuration names; without, they are the layers' own, whatever the family

    Raises ConfigError for a name that no module of the model has.
    """
    own = sorted({type(layer).__name__ for layer in lm.model.layers})
    names = list(given or own)
    if unknown := sorted(set(names) - {type(module).__name__ for module in lm.modules()}):
        raise ConfigError(
            f"fsdp_transformer_layer_cls_to_wrap: a {lm.config.model_type} has no module of class "
            f"{show(', '.join(unknown))}; its layers are {', '.join(own)}: leave the setting out, "
            "they are found"
        )
    return names


def shard_on_cpu(accelerator: "Accelerator", plugin: Any) -> None:
    """Let CPU processes split as well; accelerate reads its FSDP settings for GPUs only."""
    from accelerate import DistributedType

    if plugin is not None and accelerator.distributed_type == DistributedType.MULTI_CPU:
        say_split(accelerator, DistributedType.FSDP)
        accelerator.state.fsdp_plugin = plugin


def say_split(accelerator: "Accelerator", how: Any) -> None:
    """Make `how` accelerate's distributed type, for all stages.

    Each optimizer it prepares reads the type from `PartialState` again, so it must be set there, too:
    otherwise a second stage on CPUs would be copied instead of split.
    """
    from accelerate.state import PartialState

    PartialState._shared_state["distributed_type"] = how
    accelerator.state.distributed_type = how


class FSDP(ShardCopy):
    """A stage whose parameters, gradients and states are split by FSDP2.

    accelerate takes a state dict of the whole model before it splits, and uses it only for
    `cpu_ram_efficient_loading`. It would keep every weight, mapped or not, until the last layer is
    split; without it a layer's whole weights are let go as soon as this rank has its part. It would
    also make what trains float32 while it is whole: nothing trains until it is split.
    """

    def __init__(self, accelerator: "Accelerator", plain: RisModel, optimizer: Optimizer) -> None:
        super().__init__(accelerator, plain, optimizer)
        del self._copy.__dict__["state_dict"]
        for name in self._trained:
            self.parameters[name].requires_grad_(True)
        # FSDP's own `_apply` keeps parts, padding and the optimizer's parameters in step.
        self._copy._apply(  # type: ignore[no-untyped-call]
            lambda value: value.float() if value.requires_grad else value
        )

    def _called(self) -> RisModel:
        plugin = self.accelerator.state.fsdp_plugin
        plugin.transformer_cls_names_to_wrap = units(
            self.plain.lm, plugin.transformer_cls_names_to_wrap
        )
        replica = super()._called()
        replica.state_dict = dict  # type: ignore[method-assign, assignment]
        self._trained = [name for name, p in replica.named_parameters() if p.requires_grad]
        replica.requires_grad_(False)
        return replica

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Every rank keeps its part of what `state` returned."""
        parameters = {name: p for p, name in self.names.items()}
        super().restore(
            {
                key: value
                if key.endswith("/step")
                else split_like(value, parameters[key.rsplit("/", 1)[0]])
                for key, value in state.items()
            }
        )

    def _whole(self, value: Tensor) -> Tensor:
        return whole(value.detach())


def whole(value: Tensor) -> Tensor:
    """`value` itself, or all of it if it is split; then a collective of all ranks."""
    if not isinstance(value, DTensor):
        return value
    # States kept in the computer's memory travel by the device the ranks talk with.
    moved = value.to(value.device_mesh.device_type)
    assert isinstance(moved, DTensor)
    full: Tensor = moved.full_tensor()
    return full


def split_like(value: Tensor, parameter: Tensor) -> Tensor:
    """This rank's part of `value`, which all ranks hold, split as `parameter` is (if it is)."""
    if not isinstance(parameter, DTensor):
        return value
    mesh, placements = parameter.device_mesh, parameter.placements
    part: Tensor = distribute_tensor(value, mesh, placements, src_data_rank=None)
    return part


def _flag(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("true", "1", "yes")
