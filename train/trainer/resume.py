"""Select the checkpoint to resume from: the named one, or the newest of the matching run.

In a run of several processes the first one selects, and all of them open what it selected. What
lies at an address is fetched once per machine.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import JsonValue

from ...model.pretrained.config import MODEL_TYPE
from ...pipeline.display import show
from ...pipeline.errors import MissingError, PlanMismatchError, SvpError
from ...pipeline.store import Place, as_place
from ...pipeline.weights.file_checks import read_json, regular_size
from ..distributed import decided, rank_and_world, together
from ..recipe import CHECKPOINTS, PREFIX, TrainRecipe
from .checkpoint import OPTIMIZER, WEIGHTS, Checkpoint
from .remote_run import RemoteRun, checkpoint_at, runs_at
from .run_status import no_run


def find_checkpoint(
    asked: str | None,
    runs: Place,
    recipe: TrainRecipe,
    content: Mapping[str, JsonValue],
    data: Mapping[str, str],
) -> Checkpoint | None:
    """The checkpoint to resume from, None to start a new run.

    asked    None; "auto": the newest run of this recipe and data under `runs`, or a new one; else a
             run folder or one checkpoint, or the address of one
    content  the recipe's values; `data` digests of what it reads

    Raises MissingError, WeightsError (damaged), PlanMismatchError (named, but of another run).
    """
    if asked is None:
        return None
    if asked != "auto":
        found = checkpoint_to_resume(asked)
        found.require(content, data)
        return found
    if not isinstance(runs, Path):
        for run in runs_at(runs, f"{recipe.name}-"):
            run.send_unsent()
            fitting = run.newest(lambda found: _fits(found, content, data))
            if fitting is not None:
                return fitting
        return None
    folders = sorted(runs.glob(f"{recipe.name}-*/{CHECKPOINTS}"), reverse=True)
    for folder in folders:
        newest = _newest(folder)
        if newest is not None and _fits(newest, content, data):
            return newest
    return None


def agreed_checkpoint(find: Callable[[], Checkpoint | None]) -> Checkpoint | None:
    """The checkpoint that `find` returns in the first process, opened by all of them.

    Each process would else look for itself: one that sees another folder would start a new run
    while the others go on. Raises on all of them what one of them fails with: MissingError where the
    checkpoint cannot be read, PlanMismatchError where another one has its name.
    """
    if rank_and_world()[1] == 1:
        return find()

    def address() -> str:
        found = find()
        return json.dumps([found.name, found.state.step, found.digest]) if found else ""

    told = decided("checkpoint", address)
    if not told:
        return None
    with together("open checkpoint"):
        return open_same(*json.loads(told))


def open_same(name: str, step: int, digest: str) -> Checkpoint:
    """The checkpoint that the first process found. Raises MissingError, PlanMismatchError."""
    where = f"the checkpoint of step {step} that process 0 resumes, {show(name, 300)}"
    remedy = "the run's folder must be the same on all machines: name a shared one with --runs, or copy it"
    try:
        place = as_place(name)
        found = Checkpoint.open(place) if isinstance(place, Path) else checkpoint_at(place)
        for file in (WEIGHTS, OPTIMIZER):
            regular_size(found.path / file)
    except (SvpError, OSError) as error:
        raise MissingError(f"{where}, cannot be read here: {error}: {remedy}") from None
    if found.digest != digest:
        raise PlanMismatchError(
            f"{where}, is another one here: state.json has sha256 {found.digest[:12]}, "
            f"process 0 has {digest[:12]}: {remedy}"
        )
    return found


def checkpoint_to_resume(name: str) -> Checkpoint:
    """`named_checkpoint`, after what this machine has not sent of a run at an address is sent."""
    place = as_place(name)
    if not isinstance(place, Path):
        RemoteRun(place).send_unsent()
    return named_checkpoint(place)


def named_checkpoint(path: Place) -> Checkpoint:
    """A checkpoint by its own folder or address, or the newest of a run.

    Raises MissingError, WeightsError; CacheError for an address that cannot be read.
    """
    if not isinstance(path, Path):
        return checkpoint_at(path)
    if not path.exists():
        raise no_run(path)
    if path.name.startswith(PREFIX):
        return Checkpoint.open(path)
    newest = _newest(path / CHECKPOINTS)
    if newest is None:
        raise MissingError(
            f"{show(str(path), 300)}: neither a checkpoint nor a run folder with one in it{_model(path)}"
        )
    return newest


def _model(path: Path) -> str:
    """Hint for the folder of another kind of model. Raises WeightsError for a damaged config.json."""
    file = path / "config.json"
    if not file.is_file():
        return ""
    kind = read_json(file, 1 << 20).get("model_type")
    return (
        f"; its config.json says model_type {show(kind)}, an export of svp has {MODEL_TYPE}: a "
        "GLaMM or LISA folder is given with --published or --init"
    )


def _newest(folder: Path) -> Checkpoint | None:
    paths = sorted(p for p in folder.glob(f"{PREFIX}*") if p.suffix != ".partial")
    return Checkpoint.open(paths[-1]) if paths else None


def _fits(found: Checkpoint, content: Mapping[str, JsonValue], data: Mapping[str, str]) -> bool:
    try:
        found.require(content, data)
    except PlanMismatchError:
        return False
    return True
