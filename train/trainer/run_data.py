"""Data of a run: `data.json`, the data sets it was trained and scored on.

Written when the run starts or resumes, read by `eval`, `predict`, `export`, `figures` and
`train --resume RUN`, which then need no data options. Paths are this machine's; digests of the
same things stand in the checkpoints.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
)

from ...pipeline.cache.layout import holds_cache
from ...pipeline.cache.places import absolute_data
from ...pipeline.display import show
from ...pipeline.errors import DataError
from ...pipeline.io.json_files import read_bounded
from ...pipeline.io.yaml_files import load_yaml
from ...pipeline.store import Place, as_place
from ...pipeline.weights.rehearsal import MARK
from ..cli_defaults import DATA, HELD_OUT
from ..options import DataRequest, Places, TrainFlags, TrainRequest
from ..recipe import CONFIG

if TYPE_CHECKING:
    from .checkpoint import Checkpoint
    from .run_folder import RunFolder

FILE = "data.json"
MAX_BYTES = 1 << 20
PLACES = ("lm", "init", "sam_decoder")
Text = Annotated[str, Field(max_length=4096)]


class UsedCache(BaseModel):
    """Path or address of a cache, and its id."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Annotated[Place, PlainValidator(as_place), PlainSerializer(str, return_type=str)]
    id: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Used(BaseModel):
    """A data request, the split that was read of it ("" is all), and the caches it was joined with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Annotated[str, Field(max_length=64)]
    dataset: Text
    images: Path | None = None
    root: Path | None = None
    split_by: Annotated[str, Field(max_length=64)] | None = None
    allow_google: bool = False
    allow_counts: bool = False
    allow_empty: bool = False
    max_failures: int | None = None
    caches: tuple[UsedCache, ...]

    @property
    def request(self) -> DataRequest:
        """The data as the options of a command name it."""
        return DataRequest(**self.model_dump(exclude={"split", "caches"}))


class RunData(BaseModel):
    """data.json: what trains, what scores are taken on while it trains, where weights came from.

    weights  by the option that named them: lm, init, sam_decoder
    size     that --size named, for the run or for its caches
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    training: Used
    validation: Used | None = None
    weights: dict[str, Path] = Field(default_factory=dict)
    size: Annotated[str, Field(pattern="^(tiny|small|paper|world2|align-world2)$")] | None = Field(
        None, exclude_if=lambda size: size is None
    )

    def of(self, split: str) -> Used | None:
        """Data of `split` that the run read, held-out images first, or None."""
        known = (self.validation, self.training)
        return next((used for used in known if used and used.split == split), None)


def used(data: DataRequest, split: str, caches: Mapping[Place, str]) -> Used:
    """The record of a data request; `caches` are ids by place. Paths become absolute."""
    dataset, root = absolute_data(data.dataset or str(DATA), data.root)
    places = replace(data, dataset=dataset, root=root)
    if data.images is not None:
        places = replace(places, images=data.images.absolute())
    listed = tuple(
        UsedCache(path=place.absolute() if isinstance(place, Path) else place, id=name)
        for place, name in caches.items()
    )
    return Used(**asdict(places), split=split, caches=listed)


def write_run_data(folder: "RunFolder", data: RunData) -> None:
    """Put the record into the run's folder; on the first rank only."""
    if folder.main:
        folder.write_json(FILE, data.model_dump(mode="json"))


def read_run_data(run: Path) -> RunData | None:
    """The record of a run; None where there is none (runs of earlier versions).

    Raises DataError for a file that is not one.
    """
    path = run / FILE
    if not path.exists():
        return None
    try:
        return RunData.model_validate_json(read_bounded(path, MAX_BYTES))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{show(str(path), 300)}: {show(where)}: {show(first['msg'])}: it is not what svp train "
            "writes: move it away and name --dataset and --from-cache"
        ) from None


def with_weights(checkpoint: "Checkpoint", flags: TrainFlags) -> TrainFlags:
    """`flags`, and where they name none the weights that the run of a checkpoint started from.

    Weights that are no longer where they were are left to be named.
    """
    known = read_run_data(checkpoint.path.parents[1])
    there: dict[str, Any] = {
        name: str(path)
        for name, path in (known.weights if known else {}).items()
        if name in PLACES and getattr(flags, name) is None and path.exists()
    }
    return replace(flags, **there)


def weights_of(places: Places) -> dict[str, Path]:
    """Absolute paths of the weights a run starts from, those that are files."""
    found = {name: getattr(places, name) for name in PLACES}
    return {name: path.absolute() for name, path in found.items() if path is not None}


def resumed(request: TrainRequest) -> TrainRequest:
    """A request that names a run with --resume: what it leaves open is the run's.

    The recipe and its weights if nothing is said that changes it, caches and data if neither is
    named. Raises MissingError, WeightsError: no run, or a damaged one.
    """
    if request.resume in (None, "auto"):
        return request
    from .resume import named_checkpoint  # imports PyTorch

    checkpoint = named_checkpoint(as_place(str(request.resume)))
    request = _with_recipe(request, checkpoint)
    if request.caches or request.data.dataset is not None:
        return request
    known = read_run_data(checkpoint.path.parents[1])
    if known is None:
        return request
    mine, held = known.training, known.validation
    validate = held.caches[0].path if held and held.caches else None
    return replace(
        request, data=mine.request, caches=tuple(cache.path for cache in mine.caches),
        size=request.size or known.size,
        validate=request.validate or validate,
        validate_dataset=request.validate_dataset or (held.dataset if held else None),
    )  # fmt: skip


def _with_recipe(request: TrainRequest, checkpoint: "Checkpoint") -> TrainRequest:
    """The recipe of the run where the request says nothing of its own, --steps of it included.

    A size may be said of the run's own recipe: it also allows the tiny models on other data.
    """
    flags, file = request.flags, checkpoint.path.parents[1] / CONFIG
    changed = (flags.seed, flags.projector, flags.optimizer, flags.order, flags.steps)
    said = request.recipe_file or request.overrides or any(flag is not None for flag in changed)
    if said or not file.is_file():
        return request
    name = str(load_yaml(file).get("name", "")).removesuffix(f"-{MARK}")
    if request.size not in (None, name):
        return request
    return replace(request, recipe_file=file, flags=with_weights(checkpoint, flags))


def split_to_score(known: RunData | None) -> str:
    """The split that is evaluated where none is named: the run's own held-out one, else val."""
    if known and known.validation:
        return known.validation.split
    generated = known is None or known.training.dataset == str(DATA.absolute())
    return HELD_OUT if generated else "val"


def cache_of_run(known: RunData | None) -> Place | None:
    """A cache the run read that is still there: its recipe says how photographs are cut."""
    listed = known.training.caches if known else ()
    return next((cache.path for cache in listed if holds_cache(cache.path)), None)
