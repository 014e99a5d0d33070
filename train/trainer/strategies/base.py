"""Training strategy: model and optimizer of a stage on one process or under DDP.

Strategies that split values over ranks (`fsdp`, `deepspeed`) have the same interface, so that the
trainer, the optimizer step and the checkpoints do not depend on the choice.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ....model.batch import Batch
from ....model.losses import Losses
from ....model.ris import RisModel
from ..optimizers import restore, set_rate, state_of

if TYPE_CHECKING:
    from accelerate import Accelerator


class Strategy:
    """A stage ready to run.

    plain       the job's model, by which parameters are named
    model       what is called in training, made of `plain` by accelerate
    optimizer   of the parameters that train, with its states
    parameters  all of them by the names they have in checkpoints
    split       whether values are spread over ranks: all of them take part in reading
    """

    split = False

    def __init__(self, accelerator: "Accelerator", plain: RisModel, optimizer: Optimizer) -> None:
        self.accelerator, self.plain = accelerator, plain
        inner = self._called()
        self.model: nn.Module
        self.model, wrapped = accelerator.prepare(inner, optimizer)
        self.optimizer: Optimizer = getattr(wrapped, "optimizer", wrapped)
        self.parameters = dict(inner.named_parameters())

    @property
    def names(self) -> dict[Tensor, str]:
        """Names of the parameters that train."""
        return {p: name for name, p in self.parameters.items() if p.requires_grad}

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of forward passes."""
        context: AbstractContextManager[Any] = self.accelerator.autocast()
        return context

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """Around forward and backward: gradients travel between ranks once, with the last one."""
        with nullcontext() if last else self.accelerator.no_sync(self.model):
            yield

    def losses(self, batch: Batch) -> Losses:
        """The forward pass; `batch` is on the device."""
        with self.autocast():
            losses: Losses = self.model(batch)
        return losses

    def backward(self, loss: Tensor) -> None:
        """Gradients of this rank's share; wrappers average over ranks, ours are shares of a sum."""
        self.accelerator.backward(loss * self.accelerator.num_processes)

    def update(self, lr: float, clip: float, sums: Tensor) -> tuple[list[float], float]:
        """Take the clipped step; returns `sums` (n,) and the global gradient norm, read together.

        No step is taken unless all of these are finite. `sums` are so on all ranks or on none.
        Gradients are gone afterwards in any case.
        """
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = self._whole(self.accelerator.clip_grad_norm_(trained, clip))
        *found, whole = torch.cat([sums, norm.to(sums).reshape(1)]).tolist()
        if all(map(math.isfinite, (*found, whole))):
            set_rate(self.optimizer, lr)
            self.optimizer.step()
        self.optimizer.zero_grad()
        return found, whole

    def weights(self, names: Iterable[str], *, keep: bool = True) -> dict[str, Tensor]:
        """Copies of whole parameters on the CPU; empty on a rank that does not `keep` them."""
        named = ((name, self.parameters[name]) for name in names)
        return self._collect(named, keep=keep, copy=True)

    def state(self, *, keep: bool = True) -> dict[str, Tensor]:
        """Copies of the optimizer's tensors as `<parameter>/<key>`, whole and on the CPU."""
        return self._collect(state_of(self.optimizer, self.names), keep=keep, copy=True)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned, for any strategy and number of ranks that wrote it."""
        restore(self.optimizer, self.names, state)

    def usable(self) -> AbstractContextManager[None]:
        """While it lasts `plain` can be called; all ranks enter and leave together."""
        return nullcontext()

    def leave(self) -> None:
        """Take the wrapper off; `plain` has its values again."""
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)

    def _called(self) -> RisModel:
        """The job's model; DDP is to leave what is frozen alone.

        Every rank read the same file. DDP would send it from the first rank to all, and a weight
        that is written to is no longer the mapped file: each rank would hold a copy and a buffer.
        """
        self.plain._ddp_params_and_buffers_to_ignore = [  # type: ignore[assignment]
            name for name, p in self.plain.named_parameters() if not p.requires_grad
        ]
        return self.plain

    def _whole(self, value: Tensor) -> Tensor:
        return value

    def _collect(
        self,
        named: Iterable[tuple[str, Tensor]],
        *,
        keep: bool = True,
        copy: bool = False,
        device: torch.device | str = "cpu",
    ) -> dict[str, Tensor]:
        """Whole tensors on `device`, one at a time; all ranks take part, some `keep` nothing.

        copy  False: a tensor that is whole and there already is that tensor itself
        """
        found = {}
        for name, value in named:
            full = self._whole(value)
            if keep:
                found[name] = full.detach().to(device, copy=copy)
        return found
