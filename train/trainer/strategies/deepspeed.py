"""DeepSpeed strategy: ZeRO partitioning, configured by accelerate.

DeepSpeed's engine is driven here, not by accelerate's `backward`, which would take the step at once:
a step is taken only if the loss of the whole global batch and the norm of its gradient are finite.
The recipe decides batch sizes, clipping, learning rate and precision; arithmetic is that of one
process (trained weights float32, frozen ones bfloat16, forward passes under autocast).
"""

import gc
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn
from torch.optim import AdamW

from ....model.batch import Batch
from ....model.losses import Losses
from ....model.ris import RisModel
from ....model.trainable import in_single
from ....pipeline.errors import ConfigError, MissingPackageError
from ...recipe import TrainRecipe
from ..optimizers import moments, set_rate
from .base import Strategy
from .fsdp import say_split
from .shard_copy import ShardCopy

if TYPE_CHECKING:
    from accelerate import Accelerator

ASKED = "ACCELERATE_USE_DEEPSPEED"
NOT_OURS = {  # sections of a DeepSpeed file, and who decides instead
    "optimizer": "the recipe has the optimizer",
    "scheduler": "the recipe has the learning rate",
    "fp16": "trained weights stay float32 and the recipe has the precision (model.dtype)",
    "bf16": "trained weights stay float32 and the recipe has the precision (model.dtype)",
    "torch_autocast": "the recipe has the precision (model.dtype)",
}


class PartAdamW(AdamW):
    """AdamW over this rank's parts, which ZeRO calls with the averaged gradients of those parts.

    norm     of the whole gradient, over all ranks, before clipping
    clip     the norm it is clipped to; `allowed` False takes no step whatever the norm
    device   by which ranks talk; parts may lie in the computer's memory
    """

    norm = math.nan
    clip = math.inf
    allowed = True
    device: torch.device | str = "cpu"

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """The clipped step, unless the norm is not finite; the same decision on all ranks."""
        assert closure is None
        grads = [
            p.grad for group in self.param_groups for p in group["params"] if p.grad is not None
        ]
        square = torch.zeros((), dtype=torch.float64, device=self.device)
        for grad in grads:
            square += torch.linalg.vector_norm(grad).to(square) ** 2
        distributed.all_reduce(square)
        self.norm = float(square.sqrt())
        if self.allowed and math.isfinite(self.norm):
            for grad in grads:
                grad.mul_(min(1.0, self.clip / (self.norm + 1e-6)))
            super().step()

    def begin(self, parts: Iterable[Tensor]) -> None:
        """The states before a first step, zeros, so that what a checkpoint holds has a place."""
        for part in parts:
            self.state[part] = moments(part)


class _DeepSpeedStrategy(Strategy):
    """Base of all ZeRO levels: DeepSpeed's engine computes gradients, `PartAdamW` steps."""

    split = True
    model: Any  # DeepSpeedEngine
    optimizer: PartAdamW

    def __init__(
        self, accelerator: "Accelerator", plain: RisModel, optimizer: PartAdamW, bfloat16: bool
    ) -> None:
        optimizer.device, self.bfloat16 = accelerator.device, bfloat16
        super().__init__(accelerator, plain, optimizer)
        self.optimizer = optimizer  # the engine's has no state of its own

    def autocast(self) -> AbstractContextManager[Any]:
        """accelerate leaves precision to DeepSpeed, and DeepSpeed has none here."""
        kind = self.accelerator.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=self.bfloat16)

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        self.model.set_gradient_accumulation_boundary(last)
        yield

    def losses(self, batch: Batch) -> Losses:
        return Losses(*self.model(batch))

    def backward(self, loss: Tensor) -> None:
        self.model.backward(loss * self.accelerator.num_processes)

    def update(self, lr: float, clip: float, sums: Tensor) -> tuple[list[float], float]:
        found: list[float] = sums.tolist()
        set_rate(self.optimizer, lr)
        self.optimizer.clip = clip
        self.optimizer.allowed = all(map(math.isfinite, found))
        self.model.step()
        return found, self.optimizer.norm

    def state(self, *, keep: bool = True) -> dict[str, Tensor]:
        """As one process writes it; parameters that had no gradient have zeros."""
        from deepspeed.utils import safe_get_full_optimizer_state

        steps = [s["step"] for s in self.optimizer.state.values() if "step" in s]
        if not steps:
            return {}
        found = {}
        for parameter, name in self.names.items():
            for key in ("exp_avg", "exp_avg_sq"):
                full = safe_get_full_optimizer_state(parameter, key)
                if keep:
                    found[f"{name}/{key}"] = full.detach().to("cpu", copy=True)
            if keep:
                found[f"{name}/step"] = steps[0].detach().cpu().clone()
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Every rank keeps its part of what `state` returned."""
        self._begin()
        steps = [value for key, value in state.items() if key.endswith("/step")]
        for own in self.optimizer.state.values():
            own["step"].copy_(torch.stack(steps).max())
        for parameter, name in self.names.items():
            for key in ("exp_avg", "exp_avg_sq"):
                value = state.get(f"{name}/{key}")
                if value is not None:  # had no gradient yet: zeros
                    self._put(parameter, key, value)

    def _begin(self) -> None:
        """Allocate memory for the values of a checkpoint. DeepSpeed does so at its first step, too late."""
        raise NotImplementedError

    def _put(self, parameter: Tensor, key: str, value: Tensor) -> None:
        """Keep this rank's part of one tensor."""
        raise NotImplementedError

    def _called(self) -> RisModel:
        inner = super()._called()
        forward = inner.forward

        def tensors(batch: Batch) -> tuple[Any, ...]:
            """DeepSpeed finds what to follow backwards in tuples, and switches outer autocasts off."""
            with self.autocast():
                found: Losses = forward(batch)
            values = found.ce, found.bce, found.dice, found.tokens, found.masks
            return (*values, found.click, found.answer) if found.more else values

        inner.forward = tensors  # type: ignore[method-assign, assignment]
        return inner

    def _close(self) -> None:
        self.model.destroy()
        self.accelerator.free_memory()
        gc.collect()  # engine and hooks refer to each other


class DeepSpeedZero2(_DeepSpeedStrategy):
    """ZeRO 1 and 2: optimizer states, and gradients, are split; every rank has the weights."""

    def leave(self) -> None:
        """Make fresh parameters: DeepSpeed's keep hooks and share its flat buffers."""
        self._close()
        del self.plain.forward
        fresh = {
            old: nn.Parameter(old.detach().clone(), requires_grad=old.requires_grad)
            for old in self.plain.parameters()
        }
        for module in self.plain.modules():
            for name, old in list(module.named_parameters(recurse=False)):
                setattr(module, name, fresh[old])

    def _begin(self) -> None:
        self.optimizer.begin(self.model.optimizer.single_partition_of_fp32_groups)
        self.model.optimizer._lazy_init_hp_params_optimizer_state()

    def _put(self, parameter: Tensor, key: str, value: Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        safe_set_full_optimizer_state(parameter, value.to(self.accelerator.device), key)


class DeepSpeedZero3(_DeepSpeedStrategy, ShardCopy):
    """ZeRO 3: weights are split as well, in a sharded copy of the job's model.

    They are split before the engine sees them. It would put the whole model on each device first
    and send all of it from the first rank to the others; that writes to the mapped weight files,
    so that every other rank would hold a copy of the model.
    """

    def _called(self) -> RisModel:
        replica = super()._called()
        split_weights(replica, self.accelerator)
        return replica

    def leave(self) -> None:
        """`plain` is whole again, in the computer's memory."""
        self._fill("cpu")
        self._close()

    def _begin(self) -> None:
        self.optimizer.begin(self.model.optimizer.fp32_partitioned_groups_flat)

    def _put(self, parameter: Tensor, key: str, value: Tensor) -> None:
        from deepspeed.utils import safe_get_local_optimizer_state, safe_set_local_optimizer_state

        size = safe_get_local_optimizer_state(parameter, key).numel()
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        padded = torch.zeros(size * world, dtype=value.dtype)
        padded[: value.numel()] = value.flatten()
        part = padded[rank * size : (rank + 1) * size]
        safe_set_local_optimizer_state(parameter, part.to(self.accelerator.device), key)

    def _whole(self, value: Tensor) -> Tensor:
        if not hasattr(value, "ds_id"):
            return value
        from deepspeed import zero

        with zero.GatheredParameters([value]):
            return value.detach().clone()


class _OneByOne(nn.Module):
    """A model's parameters as ZeRO asks for them: what trains is float32 just before it is split."""

    def __init__(self, model: RisModel) -> None:
        super().__init__()
        self._parts = model.parameters()

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        for parameter in self._parts:
            if parameter.requires_grad:
                in_single(parameter)
            yield parameter


def split_weights(model: RisModel, accelerator: "Accelerator") -> None:
    """Leave this rank's part of each parameter, one after another, in place; a collective.

    What trains becomes float32.
    """
    from deepspeed import zero

    plugin = accelerator.state.deepspeed_plugin
    config = {k: v for k, v in plugin.deepspeed_config.items() if v != "auto"}
    section = config["zero_optimization"]  # "auto" is accelerate's to settle, with the engine
    config["zero_optimization"] = {k: v for k, v in section.items() if v != "auto"}
    zero.Init(_OneByOne(model), config_dict_or_path=config, dtype=torch.float32)
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            module._buffers[name] = buffer.to(accelerator.device)


def require_deepspeed() -> None:
    """Raise MissingPackageError if accelerate is to use DeepSpeed and it is not installed."""
    if not _asked():
        return
    try:
        import deepspeed  # noqa: F401
    except ImportError:
        raise MissingPackageError("deepspeed", "deepspeed", "accelerate's use_deepspeed") from None


def _asked() -> bool:
    return os.environ.get(ASKED, "false").lower() in ("true", "1", "yes")


def zero_plugin(recipe: TrainRecipe) -> Any:
    """DeepSpeed plugin of `accelerate launch`, None if it is not configured.

    Raises ConfigError for settings the recipe has or that are not supported; MissingPackageError.
    """
    if not _asked():
        return None
    if recipe.optimizer != "adamw":
        raise ConfigError(
            f"optimizer {recipe.optimizer} cannot be split by DeepSpeed: use adamw; its states are "
            "kept in the computer's memory with deepspeed_config: offload_optimizer_device: cpu"
        )
    require_deepspeed()
    from accelerate import DeepSpeedPlugin

    plugin = DeepSpeedPlugin()
    plugin.zero3_init_flag = False  # weights are read as always, then split
    config = plugin.deepspeed_config
    for name, who in NOT_OURS.items():
        section = config.get(name, {})
        if section.get("enabled", True) is True and section:
            raise ConfigError(f"the DeepSpeed settings have {name!r}, but {who}: leave it out")
    if plugin.zero_stage not in (1, 2, 3):
        raise ConfigError(
            f"ZeRO stage {plugin.zero_stage} splits nothing: leave DeepSpeed out "
            "(accelerate launch --multi_gpu), or set zero_stage to 1, 2 or 3"
        )
    return _ours(plugin)


def _ours(plugin: Any) -> Any:
    """Settings the loop depends on."""
    config = plugin.deepspeed_config
    config.pop("train_batch_size", None)
    config |= {
        "train_micro_batch_size_per_gpu": 1,  # DeepSpeed's own count only; the loop splits
        "gradient_accumulation_steps": 1,  # the loop says which micro-batch is the last
        "gradient_clipping": 0.0,  # PartAdamW clips
        "fp16": {"enabled": False},
        "bf16": {"enabled": False},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
    # One call of the optimizer a step: it clips by what it is given.
    config["zero_optimization"]["sub_group_size"] = 10**12
    return plugin


def split_on_cpu(accelerator: "Accelerator", plugin: Any) -> None:
    """Let CPU processes split as well; accelerate reads its DeepSpeed settings for GPUs only."""
    from accelerate import DistributedType

    if plugin is not None and accelerator.device.type == "cpu":
        say_split(accelerator, DistributedType.DEEPSPEED)
        accelerator.state.deepspeed_plugins = {"default": plugin}
        plugin.select(_from_accelerator_state=True)
