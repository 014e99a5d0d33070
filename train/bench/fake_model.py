"""The paper's model and batches without memory, whose operators are those of a GPU under autocast.

Weights and activations are fake tensors; ids, lengths and places are real, because parts of the
model read them on the host. On the CPU, autocast has another list of operators in float32 and
dropout another kernel: `CudaRules` puts in those of CUDA.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from ...model.batch import Batch
from ...model.ris import RisModel
from ...pipeline.bench.operators import KernelCounter
from ..recipe import ModelConfig, TrainRecipe
from ..trainer.prepare import make_ready
from .models import build_models
from .presets import Preset
from .runner import STAGES

# Of torch's list for CUDA, what the model calls.
_FLOAT32 = frozenset(
    ("layer_norm", "group_norm", "softmax", "log_softmax", "exp", "log", "pow", "__pow__", "rsqrt")
    + ("reciprocal", "sum", "prod", "norm", "cumsum", "cross_entropy", "interpolate")
    + ("binary_cross_entropy_with_logits",)
)


class FakeKernelCounter(KernelCounter):  # type: ignore[no-untyped-call]
    """Operators on real tensors alone run for real inside of a `FakeTensorMode`."""

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if any(isinstance(x, FakeTensor) for x in tree_leaves((args, kwargs))):
            return func(*args, **kwargs)
        with unset_fake_temporarily():
            return func(*args, **kwargs)


class CudaRules(TorchFunctionMode):
    """Autocast's float32 operators and the dropout of CUDA, on the CPU."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if name == "dropout":
            return _dropout(*args, **kwargs)
        if name in _FLOAT32 and torch.is_autocast_enabled("cpu"):
            args, kwargs = tree_map_only(Tensor, _single, (args, kwargs))
        return func(*args, **kwargs)


def fake_model(preset: Preset, projector: str, stage: int, fake: FakeTensorMode) -> RisModel:
    """The model as `stage` trains it; 0: as it answers, without adapters."""
    model = build_models(preset, [projector], torch.device("meta"))[projector]
    if stage:
        recipe = TrainRecipe(stages=STAGES[:stage], model=ModelConfig(dtype=preset.dtype))
        make_ready(model, recipe, stage - 1)
        model.train()
    with fake:
        for module in model.modules():
            for name, weight in module.named_parameters(recurse=False):
                empty = nn.Parameter(_like(weight), requires_grad=weight.requires_grad)
                setattr(module, name, empty)
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, _like(buffer))
    return model


def fake_batch(batch: Batch, fake: FakeTensorMode) -> Batch:
    """`batch` with fake features and masks."""

    def faked(x: Tensor) -> Tensor:
        large = x.is_floating_point() or x.dtype == torch.uint8
        return fake.from_tensor(x) if large else x

    packed = batch.packed and tuple(map(faked, batch.packed))
    return replace(batch, visual=batch.visual.map(faked), sam=faked(batch.sam), packed=packed)


def _like(value: Tensor) -> Tensor:
    return torch.empty(value.shape, dtype=value.dtype)


def _dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return torch.native_dropout(x, p, True)[0] if training and p else x


def _single(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
