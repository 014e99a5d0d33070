"""Optimizers and learning rate: AdamW, 8-bit AdamW, or AdamW with its states in host memory.

The learning rate is a pure function of the step, so it needs no state of its own.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.adamw import adamw

from ...pipeline.errors import MissingPackageError
from ..recipe import StageConfig


def learning_rate(stage: StageConfig, step: int) -> float:
    """Rate of step `step` (from 0): linear warm-up, then linear to 0 at the stage's end.

    Source: DeepSpeed's WarmupDecayLR as GLaMM train.py:385-395 sets it, without its first step at
    rate 0, which learns nothing.
    """
    if step < stage.warmup:
        return stage.lr * (step + 1) / stage.warmup
    return stage.lr * (stage.steps - step) / max(1, stage.steps - stage.warmup)


def set_rate(optimizer: Optimizer, lr: float) -> None:
    """The learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def build_optimizer(
    kind: str, parameters: Iterable[nn.Parameter], stage: StageConfig, device: torch.device
) -> Optimizer:
    """The optimizer `kind` of a recipe over `parameters`. Raises MissingPackageError.

    device  where the steps are taken: on CUDA, AdamW is one kernel for many parameters
    """
    options = {"lr": stage.lr, "betas": stage.betas, "weight_decay": stage.weight_decay}
    if kind == "adamw8bit":
        return _bitsandbytes().PagedAdamW8bit(list(parameters), **options)  # type: ignore[no-any-return]
    if kind == "offload":
        return OffloadedAdamW(parameters, options)
    # The parameters may still be on the CPU, so that torch would not choose it by itself.
    fused = True if device.type == "cuda" else None
    return AdamW(
        parameters, lr=stage.lr, betas=stage.betas, weight_decay=stage.weight_decay, fused=fused
    )


class OffloadedAdamW(Optimizer):
    """AdamW whose float32 copy of the weights and both moments stay on the CPU.

    Saves 12 bytes per trained parameter of device memory for one copy of gradients and weights over
    the bus per step: for the paper's 416M about 5 GB and well under a second.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], options: dict[str, Any]) -> None:
        super().__init__(parameters, options | {"eps": 1e-8})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One AdamW step of every parameter that has a gradient; `closure` is not supported."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            master = parameter.detach().to("cpu", torch.float32, copy=True)
            state.update(moments(master), master=master)
        assert parameter.grad is not None
        adamw(
            [state["master"]],
            [parameter.grad.to("cpu", torch.float32)],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [state["step"]],
            foreach=False,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        parameter.copy_(state["master"])


def moments(part: Tensor) -> dict[str, Tensor]:
    """AdamW's state of a parameter before its first step."""
    return {
        "step": torch.zeros(()),
        "exp_avg": torch.zeros_like(part),
        "exp_avg_sq": torch.zeros_like(part),
    }


def state_of(optimizer: Optimizer, names: Mapping[Tensor, str]) -> Iterator[tuple[str, Tensor]]:
    """The optimizer's tensors as `<parameter>/<key>`; `names` of its parameters."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            yield f"{names[parameter]}/{key}", torch.as_tensor(value)


def restore(optimizer: Optimizer, names: Mapping[Tensor, str], state: Mapping[str, Tensor]) -> None:
    """Put back what `state_of` gave: every tensor where this optimizer keeps it."""
    by_name = {name: parameter for parameter, name in names.items()}
    fused = any(group.get("fused") for group in optimizer.param_groups)
    for full, value in state.items():
        name, key = full.rsplit("/", 1)
        parameter = by_name[name]
        # torch keeps the step count on the CPU unless the step is fused; OffloadedAdamW all of it.
        stays = (key == "step" and not fused) or isinstance(optimizer, OffloadedAdamW)
        optimizer.state[parameter][key] = value.to("cpu" if stays else parameter.device)


def require_packages(name: str) -> None:
    """MissingPackageError if optimizer `name` needs a package that is not here."""
    if name == "adamw8bit":
        _bitsandbytes()


def _bitsandbytes() -> Any:
    try:
        return import_module("bitsandbytes").optim
    except ImportError:
        raise MissingPackageError("bitsandbytes", "gpu", "optimizer: adamw8bit") from None
