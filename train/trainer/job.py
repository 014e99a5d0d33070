"""Inputs and report of a training run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ...model.ris import RisModel
from ...pipeline.display import Report, counted
from ..data.loader import Stream
from ..recipe import TrainRecipe
from .checkpoint import Checkpoint
from .monitor import Utilisation
from .run_folder import RunFolder

if TYPE_CHECKING:
    from accelerate import Accelerator

Validate = Callable[[RisModel], Mapping[str, float]]
Preview = Callable[[RisModel, int], None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """All a run needs; nothing in it is opened or moved yet.

    resume         the checkpoint to resume from
    hint           the command that resumes the run, for the message of an interruption
    skip           non-finite steps that are dropped before the run fails
    new_rows       ids of the special tokens, for recipes that train only their rows
    taught         parameters that have other values than the weights the recipe names, before the
                   first step: they are part of every checkpoint
    validate       scores of the model on held-out images, called on every rank
    preview        writes pictures of predictions, called on the first rank
    left_out       how much of the data is not trained on, by reason, for the report
    sam            identity of the SAM in the caches (`data.sam_identity`)
    features       identity of their encoder (`data.encoder_identity`)
    utilisation    for the log: None where the device's peak is not known
    """

    recipe: TrainRecipe
    model: RisModel
    stream: Stream
    folder: RunFolder
    accelerator: "Accelerator"
    resume: Checkpoint | None = None
    hint: str = "svp train --resume auto"
    skip: int = 0
    new_rows: Sequence[int] = ()
    taught: Sequence[str] = ()
    validate: Validate | None = None
    preview: Preview | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    sam: str = ""
    features: str = ""
    utilisation: Utilisation | None = None


def percents(scores: Mapping[str, float]) -> str:
    """Fractions as percent, as `svp eval` prints them."""
    return "  ".join(f"{name} {100 * value:.2f}" for name, value in scores.items())


@dataclass(frozen=True)
class TrainReport(Report):
    """Report of a finished run; `next` are the commands that use it, for a shell.

    address  of a run in object storage; `folder` is then its copy on this machine
    """

    folder: Path
    checkpoint: Path
    steps: int
    seconds: float
    images: int
    last: Mapping[str, float]
    scores: Mapping[str, float]
    skipped: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    next: tuple[str, ...] = ()
    address: str = ""

    def lines(self) -> list[str]:
        rate = self.images / max(self.seconds, 1e-9)
        last = "  ".join(f"{name} {value:.4f}" for name, value in self.last.items())
        skipped = f", {counted(self.skipped, 'step')} skipped" if self.skipped else ""
        done = f"{counted(self.images, 'image')} in {self.seconds:.1f} s ({rate:.1f} images/s)"
        return [
            f"trained to step {self.steps}: {done if self.images else 'nothing was left'}{skipped}",
            *([f"last losses: {last}"] if last else []),
            *([f"held-out: {percents(self.scores)}"] if self.scores else []),
            *(
                [
                    f"checkpoint: {self.address}/checkpoints/{self.checkpoint.name}",
                    f"run: {self.address}",
                ]
                if self.address
                else [f"checkpoint: {self.checkpoint}"]
            ),
            f"{'copy' if self.address else 'run folder'}: {self.folder}",
            *(f"next: {command}" for command in self.next),
        ]
