"""Runs at an address of object storage, such as s3://bucket/runs/NAME, and their local copies.

A run at an address is trained in its copy, a run folder of this machine like any other. The first
process sends what must outlive the machine, under the same names: the small files of the folder,
checkpoints once they are complete in the copy, result files of `svp eval`.

Of a checkpoint the tensor files are sent first and state.json, which has their digests, last and
create-only: without it there is no checkpoint. It is also what is deleted first. So a checkpoint of
a killed writer is never taken for a whole one, and two processes that train one run are told.

Training goes on while the address refuses or does not answer: what was not sent stays in the copy
and is sent with the next checkpoint, at the end, or by --resume on this machine.
"""

import logging
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from ...pipeline.display import show, size
from ...pipeline.errors import CacheError, ConfigError, MissingError, SvpError, WeightsError
from ...pipeline.io.atomic import make_folders, sync_folder, write_file, writing
from ...pipeline.io.paths import user_cache
from ...pipeline.store import OtherBytesError, Place, Store, open_store, this_writer
from ...pipeline.store.local_copy import alone, fetch_file
from ..recipe import CHECKPOINTS, CONFIG, PREFIX
from .checkpoint import (
    MAX_STATE_BYTES,
    OPTIMIZER,
    STATE,
    WEIGHTS,
    Checkpoint,
    State,
    checkpoint_path,
    checkpoints,
    damaged,
    file_digest,
    kept_steps,
    parse_state,
)

MAX_FILE = 5 << 30  # bytes of one object that is made in one request, of S3
MAX_RECORD = 1 << 30
PARTIAL = ".partial"

_log = logging.getLogger("svp")
_STAMPED = re.compile(r".+-(\d{8}-\d{6})")


def copy_of(store: Store) -> Path:
    """The folder of this machine in which the runs at an address are copied.

    Raises MissingError for a user without a cache folder.
    """
    cache = user_cache()
    if cache is None:
        raise MissingError(
            f"{show(store.where(), 300)}: no place for copies of runs: this user has no home; set "
            "XDG_CACHE_HOME to a folder"
        )
    return cache.absolute() / "svp" / "runs" / store.where().replace("://", "/", 1)


def folder_of(runs: Place) -> Path:
    """The folder of runs itself, or the copy of what lies at an address."""
    return runs if isinstance(runs, Path) else copy_of(runs)


def runs_at(store: Store, prefix: str = "") -> list["RemoteRun"]:
    """The runs at an address whose names begin with `prefix`, newest first."""
    keys = (key.split("/") for key, _ in store.sizes())
    names = {key[0] for key in keys if key[1:] == [CONFIG] and key[0].startswith(prefix)}

    def when(name: str) -> tuple[str, str]:
        found = _STAMPED.fullmatch(name)
        return (found[1] if found else "", name)

    return [RemoteRun(store.sub(name)) for name in sorted(names, key=when, reverse=True)]


def file_at(store: Store) -> Path:
    """A file at an address, such as a result file of `svp eval`, fetched. Raises MissingError."""
    path = copy_of(store)
    above, _, name = store.where().rpartition("/")
    data = open_store(above).read(name, MAX_RECORD)
    make_folders(path.parent)
    write_file(path, data, label="run")
    return path


def checkpoint_at(store: Store) -> Checkpoint:
    """The checkpoint at an address, or the newest of the run there, fetched.

    Raises MissingError if it is neither, WeightsError if it is damaged.
    """
    above, _, name = store.where().rpartition(f"/{CHECKPOINTS}/")
    if above and name.startswith(PREFIX):
        return RemoteRun(open_store(above)).fetch(name)
    found = RemoteRun(store).newest()
    if found is None:
        raise MissingError(
            f"{show(store.where(), 300)}: neither a checkpoint nor a run with one in it (an "
            "export at an address is copied to a folder first)"
        )
    return found


class RemoteRun:
    """One run at an address, `store`, and its copy, `folder`."""

    def __init__(self, store: Store) -> None:
        self.store, self.folder = store, copy_of(store)
        self._checkpoints = self.folder / CHECKPOINTS
        self._ours = False  # this process trains it
        self._sent: set[str] = set()  # checkpoints that are at the address, by name
        self._records: dict[str, bytes] = {}  # digests of the small files as they were sent
        self._states: dict[str, State] = {}

    def newest(self, fits: Callable[[Checkpoint], bool] | None = None) -> Checkpoint | None:
        """The newest checkpoint, fetched; None if there is none, or if it does not fit.

        A damaged one is told, and the one before is taken.
        """
        for name in reversed(self._whole()):
            try:
                if fits is not None and not fits(self._open(name)):
                    return None
                return self.fetch(name)
            except (WeightsError, MissingError) as error:
                _log.warning(f"{error}; the checkpoint before is taken")
        return None

    def fetch(self, name: str) -> Checkpoint:
        """A checkpoint, copied if it is not in the copy already, its files compared with state.json.

        Raises MissingError if it is not there, WeightsError if it is damaged, CacheError.
        """
        found = self._open(name)
        make_folders(self._checkpoints)
        with alone(self.folder / ".lock"):
            if not self._is_copied(found):
                self._copy(name, found)
            self._fetch_records(replace=False)
        return found

    def claim(self) -> None:
        """Make a new run at the address. Raises ConfigError if there is one of this name."""
        try:
            made = self._create(self.folder / CONFIG)
        except OtherBytesError:
            made = False
        if not made:
            raise ConfigError(
                f"{show(self.store.where(), 300)}: exists and is not overwritten: try again"
            )
        self._ours = True
        self._send_records()

    def begin(self, step: int) -> None:
        """Resume after `step` steps: what another process left, and later checkpoints, are deleted."""
        for name, files in self._listed().items():
            if STATE not in files or _step(name) > step:
                self._delete(name, files)
        for path in self._checkpoints.glob(f"{PREFIX}*"):
            if path != checkpoint_path(self._checkpoints, step):
                shutil.rmtree(path, ignore_errors=True)
        self._fetch_records(replace=True)
        self._sent, self._ours = set(self._whole()), True

    def remove(self) -> None:
        """Delete the run that this process claimed, which was refused before its first step."""
        try:
            for key, _ in list(self.store.sizes()) if self._ours else []:
                self.store.delete(key)
        except SvpError as error:
            _log.warning(f"{error}; an empty run stays at {show(self.store.where(), 300)}")

    def send_unsent(self) -> None:
        """Send checkpoints of the copy that are newer than those of the run at the address."""
        if not any(key == CONFIG for key, _ in self.store.sizes()):
            return  # the run was deleted there
        there = self._whole()
        self._sent = {path.name for path in self._local() if there and path.name <= there[-1]}
        if any(path.name not in self._sent for path in self._local()):
            self._send_all()

    def publish(self, keep: int, hint: str | None = None) -> None:
        """Send what is new in the copy, and prune at the address as in a folder.

        A failure is told in the log, and the next call sends what this one did not. Raises
        CacheError if another process trains the run too.

        hint  at the end of a run, the command that resumes it: every failure is then an error
        """
        place = show(str(self.folder), 300)
        try:
            self._send_all()
            self._prune(keep)
        except OtherBytesError as error:
            raise CacheError(
                f"{show(error.where, 300)}: is there with other bytes, by {show(error.maker, 300)}: "
                "another process trains this run too: stop one of them, then resume with --resume auto"
            ) from error
        except SvpError as error:
            if hint is not None:
                raise CacheError(
                    f"{error}; training has ended, but not all of it is at its address: it is kept "
                    f"in {place}. To send it from this machine: {hint}"
                ) from error
            _log.warning(
                f"{error}; the run goes on: what is not at its address stays in {place} and is "
                "sent with the next checkpoint"
            )

    def close(self) -> None:
        """Send the small files of a run that ends, however it does."""
        try:
            if self._ours:
                self._send_records()
        except SvpError as error:
            _log.warning(f"{error}; the log and metrics are in {show(str(self.folder), 300)}")

    def send_results(self, path: Path) -> str:
        """Send a result file of `svp eval` in the copy; its address. Raises CacheError."""
        try:
            self._create(path)
        except SvpError as error:
            raise CacheError(f"{error}; the results are in {show(str(path), 300)}") from error
        return self.store.where(path.relative_to(self.folder).as_posix())

    def fetch_results(self) -> None:
        """Copy the result files that are not in the copy."""
        for key, _ in sorted(self.store.sizes("eval")):
            path = self.folder / key
            if key.endswith(".jsonl") and not path.exists():
                make_folders(path.parent)
                write_file(path, self.store.read(key, MAX_RECORD), label="run")

    def results(self) -> set[str]:
        """Names of the result files at the address."""
        return {key.rpartition("/")[2] for key, _ in self.store.sizes("eval")}

    def _send_records(self) -> None:
        """Send the small files of the copy that have changed."""
        for path in sorted(self.folder.iterdir()):
            if not path.is_file() or path.name.startswith(".") or path.name.endswith(PARTIAL):
                continue
            data = path.read_bytes()
            digest = sha256(data).digest()
            if data and self._records.get(path.name) != digest:
                self.store.replace(path.name, data)
                self._records[path.name] = digest

    def _send_all(self) -> None:
        # Metrics first: at the address they reach as far as the newest checkpoint, or further.
        self._send_records()
        # Oldest first: what is newer than all at the address is what `send_unsent` looks for.
        for path in self._local():
            if path.name not in self._sent:
                for file in (WEIGHTS, OPTIMIZER, STATE):
                    self._create(path / file)
                self._sent.add(path.name)

    def _create(self, path: Path) -> bool:
        """Send one file of the copy; False if it is there already, with the same bytes."""
        length = path.stat().st_size
        if length > MAX_FILE:
            raise CacheError(
                f"{show(str(path), 300)}: {size(length)}; one file at an address has at most "
                f"{size(MAX_FILE)}: give --runs a folder, or train fewer parameters"
            )
        key = path.relative_to(self.folder).as_posix()
        return self.store.create(key, [path.read_bytes()], who=this_writer()).made

    def _prune(self, keep: int) -> None:
        found, states = self._listed(), {}
        for name, files in found.items():
            with suppress(WeightsError, MissingError):  # one that is damaged stays
                if STATE in files:
                    states[name] = self._state(name)
        kept = kept_steps([states[name] for name in sorted(states)], keep)
        newest = max(states, default="")
        for name, files in found.items():
            left_by_another = STATE not in files and name < newest
            if left_by_another or (name in states and states[name].step not in kept):
                self._delete(name, files)

    def _delete(self, name: str, files: set[str]) -> None:
        for file in sorted(files, key=lambda file: file != STATE):
            self.store.delete(f"{CHECKPOINTS}/{name}/{file}")

    def _listed(self) -> dict[str, set[str]]:
        """Files at the address by checkpoint, whole or not."""
        found: dict[str, set[str]] = {}
        for key, _ in self.store.sizes(CHECKPOINTS):
            name, _, file = key.removeprefix(f"{CHECKPOINTS}/").partition("/")
            if re.fullmatch(rf"{PREFIX}\d{{8}}", name) and file:
                found.setdefault(name, set()).add(file)
        return found

    def _whole(self) -> list[str]:
        """Names of the checkpoints at the address, oldest first."""
        return sorted(name for name, files in self._listed().items() if STATE in files)

    def _local(self) -> list[Path]:
        return [found.path for found in checkpoints(self._checkpoints)]

    def _open(self, name: str) -> Checkpoint:
        """A checkpoint by its state, its tensors not fetched."""
        data = self.store.read(f"{CHECKPOINTS}/{name}/{STATE}", MAX_STATE_BYTES)
        state = parse_state(data, self.store.where(f"{CHECKPOINTS}/{name}"))
        return Checkpoint(self._checkpoints / name, state, sha256(data).hexdigest(), self.store)

    def _state(self, name: str) -> State:
        if name not in self._states:
            self._states[name] = self._open(name).state
        return self._states[name]

    def _is_copied(self, wanted: Checkpoint) -> bool:
        """Whether the copy has it; its tensors are compared when they are read."""
        try:
            there = Checkpoint.open(wanted.path)
        except SvpError:
            return False
        files = all((wanted.path / file).is_file() for file in (WEIGHTS, OPTIMIZER))
        return there.digest == wanted.digest and files

    def _copy(self, name: str, wanted: Checkpoint) -> None:
        work = self.folder / f".{name}.{os.getpid()}{PARTIAL}"
        key = f"{CHECKPOINTS}/{name}"
        _log.info(f"fetching {show(self.store.where(key), 300)} to {show(str(self.folder), 300)}")
        with writing(work):
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            for file in (WEIGHTS, OPTIMIZER):
                fetch_file(
                    self.store, f"{key}/{file}", self.store.stat(f"{key}/{file}"), work / file
                )
                if file_digest(work / file) != wanted.state.files.get(file):
                    shutil.rmtree(work, ignore_errors=True)
                    where = self.store.where(key)
                    raise damaged(where, f"{file}: its content is not what was written")
            write_file(
                work / STATE, self.store.read(f"{key}/{STATE}", MAX_STATE_BYTES), label="run"
            )
            shutil.rmtree(wanted.path, ignore_errors=True)  # another one of this name, or a part
            work.rename(wanted.path)
            sync_folder(self._checkpoints)

    def _fetch_records(self, *, replace: bool) -> None:
        for key, length in list(self.store.sizes()):
            if "/" not in key and length and (replace or not (self.folder / key).exists()):
                write_file(self.folder / key, self.store.read(key, MAX_RECORD), label="run")


def _step(name: str) -> int:
    return int(name.removeprefix(PREFIX))
