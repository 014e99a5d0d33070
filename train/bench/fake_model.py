"""The paper's model and batches without memory, whose operators are those of a GPU.

All tensors are fake: an operator whose result the host would have to read raises. On the CPU,
autocast has another list of operators in float32, dropout another kernel, and RMSNorm none of its own:
`CudaRules` puts in those of CUDA.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from ...model.batch import Batch
from ...model.inference.precision import cast_weights
from ...model.ris import RisModel
from ..recipe import ModelConfig, TrainRecipe
from ..trainer.prepare import make_ready
from .models import build_models
from .presets import Preset
from .runner import STAGES

# Of torch's list for CUDA, what the model calls.
_FLOAT32 = frozenset(
    (
        "layer_norm",
        "group_norm",
        "rms_norm",
        "softmax",
        "log_softmax",
        "exp",
        "log",
        "pow",
        "__pow__",
        "rsqrt",
    )
    + ("reciprocal", "sum", "prod", "norm", "cumsum", "cross_entropy", "interpolate")
    + ("binary_cross_entropy_with_logits",)
)


class CudaRules(TorchFunctionMode):
    """Autocast's float32 operators, the dropout and the RMSNorm of CUDA, on the CPU."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if name == "backward":
            return self._backward(args[0], kwargs["gradient"])
        if name == "dropout":
            return _dropout(*args, **kwargs)
        if name in _FLOAT32 and torch.is_autocast_enabled("cpu"):
            args, kwargs = tree_map_only(Tensor, _single, (args, kwargs))
        if name == "rms_norm":
            return _RMSNorm.apply(*args, **kwargs)
        return func(*args, **kwargs)

    def _backward(self, loss: Tensor, grad: Tensor | None) -> None:
        """The rules hold for what is computed again, too; torch leaves them at `backward`."""
        grad = torch.ones_like(loss) if grad is None else grad
        run = torch.autograd.Variable._execution_engine.run_backward
        with self:
            run((loss,), (grad,), False, False, (), allow_unreachable=True, accumulate_grad=True)


def fake_model(preset: Preset, projector: str, stage: int, fake: FakeTensorMode) -> RisModel:
    """The model as `stage` trains it; 0: as it answers, without adapters."""
    model = build_models(preset, [projector], torch.device("meta"))[projector]
    if stage:
        recipe = TrainRecipe(stages=STAGES[:stage], model=ModelConfig(dtype=preset.dtype))
        make_ready(model, recipe, stage - 1)
        model.train()
    else:
        cast_weights(model)
    with fake:
        for module in model.modules():
            for name, weight in module.named_parameters(recurse=False):
                empty = nn.Parameter(_like(weight), requires_grad=weight.requires_grad)
                setattr(module, name, empty)
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, _like(buffer))
    return model


def fake_batch(batch: Batch, fake: FakeTensorMode) -> Batch:
    """`batch` with its layout, every tensor fake."""
    return batch.with_layout().map(fake.from_tensor)


def _like(value: Tensor) -> Tensor:
    return torch.empty(value.shape, dtype=value.dtype)


def _dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return torch.native_dropout(x, p, True)[0] if training and p else x


class _RMSNorm(torch.autograd.Function):
    """The one operator of CUDA and its backward pass; below autograd, where it is not yet taken apart."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: Sequence[int], weight: Tensor, eps: float) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            out, rstd = torch.ops.aten._fused_rms_norm(x, shape, weight, eps)
        ctx.save_for_backward(x, weight, rstd)
        ctx.shape = shape
        found: Tensor = out
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, rstd = ctx.saved_tensors
        needed = [ctx.needs_input_grad[0], ctx.needs_input_grad[2]]
        with torch._C._AutoDispatchBelowAutograd():
            dx, dweight = torch.ops.aten._fused_rms_norm_backward(
                grad, x, ctx.shape, rstd, weight, needed
            )
        return dx, None, dweight, None


def _single(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
