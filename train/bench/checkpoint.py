"""`svp bench checkpoint`: time that training stands still for a checkpoint.

Method: parameters with AdamW's states, on the CPU; a checkpoint that is waited for and one that a
thread writes take turns, and between the turns of the second one the optimizer goes on. Only the
ratio within a run means something.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.optim import AdamW

from ...pipeline.bench.targets import Target, TargetReport
from ...pipeline.display import size
from ...pipeline.io.atomic import make_folders
from ..trainer.checkpoint import State, prune, save_checkpoint
from ..trainer.checkpoint_writer import CheckpointWriter
from ..trainer.optimizers import state_of

PARAMETERS = 24_000_000  # about the projector of the paper with its new rows
TENSORS = 24


@dataclass
class CheckpointBench(TargetReport):
    """Seconds: standing still with and without waiting, and until the files are on the disk."""

    bytes: int
    waited: float
    copied: float
    written: float

    def lines(self) -> list[str]:
        """The printable report."""
        return [
            f"a checkpoint of {size(self.bytes)}, median of the repetitions",
            f"  standing still until it is on the disk   {self.waited:8.2f} s",
            f"  standing still while it is copied        {self.copied:8.2f} s",
            f"  on the disk while training goes on, after{self.written:8.2f} s",
            *(target.line() for target in self.targets),
        ]


def run(
    *, parameters: int = PARAMETERS, reps: int = 5, folder: Path | None = None
) -> CheckpointBench:
    """Measure both ways in turn; `folder` is where the files go (default: the temp folder)."""
    if folder is not None:
        make_folders(folder)
    trained = {
        f"p{i}": torch.nn.Parameter(torch.randn(parameters // TENSORS)) for i in range(TENSORS)
    }
    optimizer = AdamW(trained.values(), lr=1e-4)
    names: dict[Tensor, str] = {value: name for name, value in trained.items()}
    waited, copied, written = [], [], []
    with tempfile.TemporaryDirectory(prefix="svp-bench-", dir=folder) as work:
        folder = Path(work)
        writer = CheckpointWriter(folder, keep=1)
        for step in range(1, 2 * reps + 1):
            _step(optimizer)
            began = time.perf_counter()
            weights: dict[str, Tensor] = {name: value.detach() for name, value in trained.items()}
            states = dict(state_of(optimizer, names))
            if step % 2:
                save_checkpoint(folder, _state(step), weights, states)
                prune(folder, 1)
                waited.append(time.perf_counter() - began)
                continue
            writer.save(_state(step), _copies(weights), _copies(states))
            copied.append(time.perf_counter() - began)
            while writer.busy:
                _step(optimizer)
            writer.wait()
            written.append(time.perf_counter() - began)
    found = CheckpointBench(
        bytes=3 * 4 * parameters,
        waited=median(waited),
        copied=median(copied),
        written=median(written),
    )
    ratio = found.waited / found.copied
    found.targets = [Target("standing still, waiting / copying", ratio, ">=", 2)]
    return found


def _copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.to("cpu", copy=True) for name, value in tensors.items()}


def _step(optimizer: AdamW) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = parameter.detach()
    optimizer.step()


def _state(step: int) -> State:
    return State(
        schema_version=1, step=step, stage=0, stage_step=step, recipe={}, data={}, cursor={},
        world=1, micro_batch=1,
    )  # fmt: skip
