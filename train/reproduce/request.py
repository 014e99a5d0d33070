"""Options of `svp reproduce` and the data sets of each size."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...pipeline.errors import ConfigError
from ...pipeline.executors import require_executor
from ...pipeline.precompute.options import Flags
from ...pipeline.precompute.run import RunOptions
from ...pipeline.process import pick_device, require_own_gpus
from .. import cli_defaults
from ..evaluation.paper_numbers import COLUMNS

INIT = "GLaMM-GranD-Pretrained"  # what the paper starts from
PAPER_SETS = "refcoco,refcoco+,refcocog"


@dataclass(frozen=True, kw_only=True)
class ReproduceRequest:
    """One table at one size.

    seeds     0, 1, ... so many
    rows      only these rows; empty: all
    projectors  of the user's, rows of the table of budgets
    changes   `--set` assignments on every row's training recipe; results then get their own name
    runs      folder of the runs, `caches` of the caches: both are named by digest inside
    out       folder of results and page
    root      REFER sets of the paper's size; `init` the checkpoint its models start from,
              `published` the one that is evaluated as it is
    protocol  how splits are asked, as in `svp eval`
    device    of caches, training and evaluation
    executor  that makes caches, with the places of its cluster; mode, dtype  of SAM, None: as in the
              recipe of the size
    workers   processes that make caches; None: one per GPU, else one per core; 0: this one
    processes of one training and one evaluation; more than 1: started with `accelerate launch`
    gpu       that plans are priced for, a name of `gpus.GPUS`
    hint      the command line, told when it is stopped
    """

    table: str
    size: str = "tiny"
    seeds: int = 3
    rows: tuple[str, ...] = ()
    projectors: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    out: Path = Path("results")
    runs: Path = Path("runs/reproduce")
    caches: Path = Path("caches/reproduce")
    root: Path | None = None
    init: str | None = None
    published: str = "GLaMM-RefSeg"
    protocol: Literal["full", "glamm"] = "full"
    device: str = "auto"
    executor: str = "local"
    ray_address: str | None = None
    dask_scheduler: str | None = None
    mode: str | None = None
    dtype: str | None = None
    workers: int | None = None
    threads: int = 1
    processes: int = 1
    gpu: str = "h100"
    hint: str = "the same command again"

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ConfigError(f"--seeds {self.seeds}: need >= 1")
        if self.processes < 1:
            raise ConfigError(f"--processes {self.processes}: need >= 1")
        require_executor(self.executor)
        require_own_gpus(self.device, self.processes)
        if (found := os.environ.get("WORLD_SIZE", "1")) not in ("", "1"):
            raise ConfigError(
                f"this is one of {found} processes: start `svp reproduce` once and give "
                f"it --processes {found}; it starts training and evaluation with accelerate launch"
            )

    @property
    def generated(self) -> bool:
        """Whether the images are generated scenes."""
        return self.size != "paper"

    @property
    def start(self) -> str | None:
        """Checkpoint named in commands: the requested one, else the paper's, for world 2 the export
        of the alignment; None at tiny size.
        """
        own = {"paper": INIT, cli_defaults.WORLD2: str(self.aligned)}
        return self.init or own.get(self.size)

    @property
    def aligned(self) -> Path:
        """Export of the alignment that all rows on world 2 start from, without `--init`."""
        return self.runs / "aligned-world2"

    @property
    def flags(self) -> Flags:
        """Recipe flags of every cache: the mask decoder reads SAM's embeddings."""
        return Flags(store_sam_embeddings=True, mode=self.mode, dtype=self.dtype)

    @property
    def run_options(self) -> RunOptions:
        """Executor of the caches, on the requested device."""
        return RunOptions(
            executor=self.executor, workers=self.workers, device=pick_device(self.device),
            threads=self.threads, ray_address=self.ray_address,
            dask_scheduler=self.dask_scheduler, hint=self.hint,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Column:
    """One split that is evaluated; `name` of the data set is that of its files and of its column."""

    dataset: str
    split: str
    name: str

    @property
    def label(self) -> str:
        """Of the column."""
        return f"{self.name}-{self.split}"


@dataclass(frozen=True, slots=True)
class Data:
    """Training and evaluation data of a size; `root` is where named sets are looked for."""

    dataset: str
    root: Path | None
    columns: tuple[Column, ...]


def data_of(request: ReproduceRequest) -> Data:
    """The generated scenes of the size, or the RefCOCO sets at paper size."""
    if not request.generated:
        names = tuple(Column(name, split, name) for name, split in COLUMNS)
        return Data(PAPER_SETS, request.root, names)
    scenes, held_out = str(scenes_of(request)), cli_defaults.HELD_OUT
    return Data(scenes, None, (Column(scenes, held_out, "scenes"),))


def scenes_of(request: ReproduceRequest) -> Path:
    """Folder of the generated scenes."""
    return cli_defaults.WORLD2_DATA if request.size == cli_defaults.WORLD2 else cli_defaults.DATA


def make_scenes(request: ReproduceRequest) -> None:
    """Write the scenes of the size unless they are there. Raises DataError for others."""
    from ...pipeline.datasets.scenes import write_scenes
    from ...pipeline.weights.rehearsal import few_scenes

    harder = request.size == cli_defaults.WORLD2
    splits = cli_defaults.WORLD2_SPLITS if harder else cli_defaults.SPLITS
    sizes = {split: few_scenes(count) for split, count in splits.items()}
    write_scenes(
        scenes_of(request), images=sum(sizes.values()), seed=cli_defaults.SEED, splits=sizes,
        world=2 if harder else 1, captions=harder,
    )  # fmt: skip
