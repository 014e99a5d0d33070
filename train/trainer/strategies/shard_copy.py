"""Move parameters into a sharded copy for one stage and back.

The job's model stays an ordinary module, without values during the stage. Evaluation, previews, the
next stage and checkpoints see whole tensors under the names they always have, so no file tells how
many processes wrote it.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ....model.ris import RisModel
from .base import Strategy


class ShardCopy(Strategy):
    """A stage whose parameters are moved to a copy of the job's model, which is sharded."""

    split = True

    @contextmanager
    def usable(self) -> Iterator[None]:
        """`plain` is whole on the device during this call and must fit there."""
        self._fill(self.accelerator.device)
        try:
            yield
        finally:
            empty(self.plain)

    def leave(self) -> None:
        """`plain` is whole again, in the computer's memory."""
        self._fill("cpu")
        self.accelerator.free_memory()

    def _called(self) -> RisModel:
        self._copy = to_shard_copy(self.plain)
        return self._copy

    def _fill(self, device: torch.device | str) -> None:
        """Copy the sharded values back to `plain`, whole, on `device`; a collective of all ranks."""
        state = self._collect(self._copy.state_dict(keep_vars=True).items(), device=device)
        self.plain.load_state_dict(state, assign=True)
        self.plain.to(device)  # buffers that are no part of the state


def to_shard_copy(model: RisModel) -> RisModel:
    """A copy with the parameters and buffers of `model`, which keeps names and shapes only."""
    moved: list[Tensor] = [*model.parameters(), *model.buffers()]
    replica = copy.deepcopy(model, {id(tensor): tensor for tensor in moved})
    empty(model)
    return replica


def empty(model: nn.Module) -> None:
    """Free the parameters' values; buffers, which are small and shared with the copy, stay."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            hollow = torch.empty_like(parameter, device="meta")
            setattr(module, name, nn.Parameter(hollow, requires_grad=parameter.requires_grad))
