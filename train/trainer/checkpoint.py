"""Checkpoints: the complete state for a bit-exact resume, in one atomic folder.

    step-00001234/weights.safetensors    every parameter trained so far
                  optimizer.safetensors  `<parameter>/<key>`
                  state.json             recipe, data, position, digests of both files

A folder has its name only once all its files are on the disk: a name is a complete checkpoint.
At an address of object storage (`remote_run.py`) state.json is what makes a checkpoint complete.
Random generators have no state to save (data/keyed_rng.py), the data's position is the loader's cursor.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import torch
import xxhash
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...pipeline.display import counted, show
from ...pipeline.errors import MissingError, PlanMismatchError, WeightsError
from ...pipeline.io.atomic import refusal, sync_folder
from ...pipeline.io.json_files import canonical
from ...pipeline.store import Store
from ...pipeline.weights.file_checks import regular_size
from ..recipe import PREFIX

SCHEMA = 1
WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
MAX_STATE_BYTES = 16 << 20


class State(BaseModel):
    """state.json.

    step, stage, stage_step  optimizer steps done: in the run, and in the stage's order and count
    recipe, data    what the run is: the recipe's values, digests of caches and table by name
    cursor          position in the sample stream, as the loader writes it
    world, micro_batch  how the global batch was split: equal values give bit-equal continuation
    skipped         steps dropped because of a non-finite loss or gradient
    scores          of the last evaluation; `best` is the best until now
    sam             type and weights of the SAM whose embeddings were trained on
    features        the encoder whose features were trained on (`data.encoder_identity`)
    stage_end       whether this is the last step of its stage
    files           xxh3_64 of the two tensor files
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    schema_version: int
    step: int
    stage: int
    stage_step: int
    recipe: dict[str, JsonValue]
    data: dict[str, str]
    cursor: dict[str, JsonValue]
    world: int
    micro_batch: int
    skipped: int = 0
    scores: dict[str, float] = {}
    best: float | None = None
    stage_end: bool = False
    sam: str = ""
    features: str = ""
    libraries: dict[str, str] = {}
    files: dict[str, str] = {}


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on the disk.

    digest  sha256 of state.json, which holds those of the tensors
    home    the run at an address that this is a copy of a part of
    """

    path: Path
    state: State
    digest: str
    home: Store | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """Its address, or its path: the same on all machines of a run."""
        key = f"{self.path.parent.name}/{self.path.name}"
        return self.home.where(key) if self.home else str(self.path)

    @classmethod
    def open(cls, path: Path) -> "Checkpoint":
        """Read and check the state; the tensors are checked when they are loaded.

        Raises MissingError if there is none, WeightsError if it is damaged or of another version.
        """
        if not path.is_dir():
            raise MissingError(f"{show(str(path), 300)}: no such checkpoint")
        # Its size is bounded before it is read: the file may come from anywhere.
        regular_size(path / STATE, MAX_STATE_BYTES)
        data = (path / STATE).read_bytes()
        return cls(path, parse_state(data, str(path)), sha256(data).hexdigest())

    def weights(self) -> dict[str, Tensor]:
        """Trained parameters by name. Raises WeightsError if the file is not the one written."""
        return self._tensors(WEIGHTS)

    def optimizer(self) -> dict[str, Tensor]:
        """The optimizer's tensors. Raises WeightsError if the file is not the one written."""
        return self._tensors(OPTIMIZER)

    def require(self, recipe: Mapping[str, JsonValue], data: Mapping[str, str]) -> None:
        """Refuse to resume with another recipe or other data, naming every difference."""
        differences = [
            *_differences("recipe", dict(self.state.recipe), dict(recipe)),
            *_differences("data", dict(self.state.data), dict(data)),
        ]
        if differences:
            raise PlanMismatchError(
                f"{show(str(self.path), 300)} belongs to another run: {'; '.join(differences[:8])}."
                " Use the same recipe and cache (`--resume RUN` without --set, --steps and the like takes "
                "the run's own), or start a new run without --resume"
            )

    def _tensors(self, name: str) -> dict[str, Tensor]:
        path = self.path / name
        regular_size(path)
        if file_digest(path) != self.state.files.get(name):
            raise damaged(str(self.path), f"{name}: its content is not what was written")
        try:
            return load_file(path)
        except SafetensorError as error:
            raise damaged(str(self.path), f"{name}: {show(str(error))}") from None


def parse_state(data: bytes, where: str) -> State:
    """The state in a state.json of the checkpoint `where`.

    Raises WeightsError if it is damaged or of another version.
    """
    try:
        state = State.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise damaged(where, f"{STATE}: {show(place)}: {show(first['msg'])}") from None
    if state.schema_version != SCHEMA:
        raise WeightsError(
            f"{show(where, 300)}: checkpoint schema {state.schema_version}, this svp reads "
            f"{SCHEMA}: resume with the svp version that wrote it"
        )
    return state


def save_checkpoint(
    folder: Path, state: State, weights: dict[str, Tensor], optimizer: dict[str, Tensor]
) -> Checkpoint:
    """Write `folder/step-<n>`, atomic and durable; one that is there already is replaced.

    Raises CacheError if the disk is full or refuses.
    """
    # Written beside under another name, then renamed: a name is a complete checkpoint.
    final = checkpoint_path(folder, state.step)
    partial = folder / f"{final.name}.{os.getpid()}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        _write(partial, state, weights, optimizer)
        if final.exists():  # a run resumed from an earlier one; its name is taken before its files
            final.rename(old := folder / f"{final.name}.old.{os.getpid()}.partial")
            shutil.rmtree(old, ignore_errors=True)
        partial.rename(final)
        sync_folder(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        again = "give the same command with --resume auto"
        raise refusal(error, final, again=again) from error
    return Checkpoint.open(final)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Path of the checkpoint after `step` steps, in the folder of a run's checkpoints."""
    return folder / f"{PREFIX}{step:08d}"


def checkpoints(folder: Path) -> list[Checkpoint]:
    """All complete checkpoints of a run, oldest first."""
    found = sorted(path for path in folder.glob(f"{PREFIX}*") if path.suffix != ".partial")
    return [Checkpoint.open(path) for path in found]


def prune(folder: Path, keep: int) -> list[Path]:
    """Delete all but the last `keep`, stage ends and the best; also what killed writers left."""
    every = checkpoints(folder)
    kept = kept_steps([found.state for found in every], keep)
    # What a killed writer left still has the name it is written under.
    gone = [c.path for c in every if c.state.step not in kept] + list(folder.glob("*.partial"))
    for path in gone:
        shutil.rmtree(path, ignore_errors=True)
    return gone


def kept_steps(states: Sequence[State], keep: int) -> set[int]:
    """Steps of the checkpoints of a run, oldest first, that `prune` keeps."""
    scores = [state.best for state in states if state.best is not None]
    best = max(scores, default=None)
    # The first that reached the best score is the one that scored it; later ones only carry it.
    first_best = next((s.step for s in states if best is not None and s.best == best), None)
    last = {state.step for state in states[-keep:] if keep}
    ends = {state.step for state in states if state.stage_end}
    return last | ends | ({first_best} if first_best is not None else set())


def _write(
    folder: Path, state: State, weights: dict[str, Tensor], optimizer: dict[str, Tensor]
) -> None:
    # The digests go into the state, so that its own digest names the whole checkpoint.
    files = {}
    for name, tensors in ((WEIGHTS, weights), (OPTIMIZER, optimizer)):
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / name)
        files[name] = file_digest(folder / name)
    full = state.model_copy(update={"schema_version": SCHEMA, "files": files})
    (folder / STATE).write_bytes(canonical(full.model_dump(mode="json")))

    # On the disk before the folder gets its name, or a power cut could leave a name without bytes.
    for name in (WEIGHTS, OPTIMIZER, STATE):
        with open(folder / name, "rb") as file:
            os.fsync(file.fileno())
    sync_folder(folder)


def _differences(prefix: str, ours: JsonValue, theirs: JsonValue) -> Iterator[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(ours.keys() | theirs.keys()):
            yield from _differences(f"{prefix}.{key}", ours.get(key), theirs.get(key))
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from _differences(f"{prefix}.{number}", one, other)
    elif ours != theirs:
        yield f"{prefix}: checkpoint has {show(ours)}, this run {show(theirs)}"


def file_digest(path: Path) -> str:
    """xxh3_64 (hex) of a file."""
    digest = xxhash.xxh3_64()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def damaged(where: str, why: str) -> WeightsError:
    """The error for a checkpoint that is not what was written."""
    return WeightsError(
        f"{show(where, 300)}: damaged checkpoint: {why}. Delete this folder and resume from the "
        "one before with --resume auto"
    )


@torch.no_grad()
def load_weights(
    model: torch.nn.Module, weights: Mapping[str, Tensor], where: str, *, mapped: bool = False
) -> None:
    """Put `weights` into the parameters of their names, in their own dtype: what trained in an
    earlier stage stays float32 where it does not train any more. Raises WeightsError on any misfit.

    mapped  the parameters become these tensors, the mapped file, themselves: for a model that is
            split next, so that no process holds a whole copy
    """
    own = dict(model.named_parameters())
    wrong = [n for n, w in weights.items() if n not in own or own[n].shape != w.shape]
    if wrong:
        raise WeightsError(
            f"{show(where, 300)}: {len(wrong):,} of {counted(len(weights), 'tensor', 'match')} no parameter of "
            f"this model by name and shape: {show(wrong[:5], 300)}"
        )
    for name, value in weights.items():
        own[name].data = value if mapped else value.to(own[name].device, copy=True)
