"""What the user asks of `svp reproduce`, and the data a size stands on."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ...pipeline.errors import ConfigError
from .. import defaults
from ..evaluation.paper import COLUMNS

PAPER_SETS = "refcoco,refcoco+,refcocog"


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One table at one size.

    seeds     0, 1, ... so many
    rows      only these rows; empty: all
    changes   `--set` assignments on every row's training recipe; results then get their own name
    runs      folder of the runs, `caches` of the caches: both are named by digest inside
    out       folder of results and page
    workers   processes that make caches; None: one per core, 0: this one
    root      REFER sets of the paper's size; `init` the checkpoint its models start from
    """

    table: str
    size: str = "tiny"
    seeds: int = 3
    rows: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    out: Path = Path("results")
    runs: Path = Path("runs/reproduce")
    caches: Path = Path("caches/reproduce")
    root: Path | None = None
    init: str | None = None
    device: str = "auto"
    workers: int | None = None
    say: Callable[[str], None] = field(default=print)

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ConfigError(f"--seeds {self.seeds}: need >= 1")


@dataclass(frozen=True, slots=True)
class Column:
    """One split that is evaluated; `label` names its files and its column."""

    dataset: str
    split: str
    label: str


@dataclass(frozen=True, slots=True)
class Data:
    """What a size trains on and is evaluated on; `root` is where named sets are looked for."""

    dataset: str
    root: Path | None
    columns: tuple[Column, ...]


def data_of(ask: Ask) -> Data:
    """The generated scenes at tiny size, the RefCOCO sets at paper size."""
    if ask.size == "paper":
        names = tuple(Column(name, split, f"{name}-{split}") for name, split in COLUMNS)
        return Data(PAPER_SETS, ask.root, names)
    scenes, held_out = str(defaults.DATA), defaults.HELD_OUT
    return Data(scenes, None, (Column(scenes, held_out, f"scenes-{held_out}"),))


def make_scenes() -> None:
    """Write the embedded default's scenes unless they are there. Raises DataError for others."""
    from ...pipeline.scenes import write_scenes

    count = sum(defaults.SPLITS.values())
    write_scenes(defaults.DATA, images=count, seed=defaults.SEED, splits=defaults.SPLITS)
