"""What `svp train` was asked for, as the command line or a program says it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..options import TrainFlags


@dataclass(frozen=True, kw_only=True)
class DataRequest:
    """Which sentences of which photographs; None: what the caches were made from.

    allow_empty   empty masks in val and test are meant: no notice about them
    max_failures  images and records that may be left out because something is wrong with them;
                  None: any number of images, half of the records
    """

    dataset: str | None = None
    images: Path | None = None
    root: Path | None = None
    split_by: str | None = None
    allow_google: bool = False
    allow_counts: bool = False
    allow_empty: bool = False
    max_failures: int | None = None


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """What the user asked for.

    caches     of the training split; none: the newest complete one under `caches`
    validate   cache of held-out images, for scores while training; validate_dataset  their data,
               None: what that cache was made from
    limit      only the first so many images with sentences that the caches hold
    live       encoders in the loop instead of the caches' rows
    partial    accept images that the caches do not hold
    size       None: tiny, on generated scenes only
    resume     None, "auto", a run folder or a checkpoint
    hint       the command line, told when the run is stopped
    """

    caches: tuple[Path, ...] = ()
    data: DataRequest = field(default_factory=DataRequest)
    size: str | None = None
    recipe_file: Path | None = None
    flags: TrainFlags = field(default_factory=TrainFlags)
    overrides: tuple[str, ...] = ()
    validate: Path | None = None
    validate_dataset: str | None = None
    limit: int | None = None
    live: bool = False
    sam_weights: Path | None = None
    encoder_weights: Path | None = None
    partial: bool = False
    runs: Path = Path("runs")
    resume: str | None = None
    device: str = "auto"
    deterministic: bool = False
    skip_nonfinite: int = 0
    hint: str = "svp train --resume auto"
    say: Callable[[str], None] = print
