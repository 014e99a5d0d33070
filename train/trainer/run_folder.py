"""Run folder: request, environment and metrics of a run; never overwritten.

config.yaml        the resolved recipe and what it ran on
data.json          which data, caches and held-out data, so that other commands find them
env.json           versions, machine, command, by an allow-list: no token of an environment gets in
metrics.jsonl      losses, rates and held-out scores (percent) by step; no times, so two equal runs
                   write equal files
log.txt            the progress lines, with times
status.json        how far it is, for `svp status`, see run_status.py
checkpoints/       see checkpoint.py
previews/          predictions while training
tensorboard/       if TensorBoard is installed, see trackers.py

A run at an address is such a folder too, the copy of remote_run.py.
"""

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from ...pipeline.display import escape, show
from ...pipeline.errors import ConfigError, DataError, Interrupted, NonFiniteError, SvpError
from ...pipeline.io.atomic import append_line, write_file, writing
from ..provenance import environment
from ..recipe import CHECKPOINTS, CONFIG, METRICS, TrainRecipe
from .remote_run import RemoteRun
from .trackers import chosen_trackers, start_tracker

log = logging.getLogger(__name__)


class RunFolder:
    """One run's folder. `main` is False on all ranks but the first: they write nothing.

    trackers  names of `trackers.py` that get the numbers too; None: TensorBoard where there is one
    remote    the run at an address that this folder is the copy of
    """

    def __init__(
        self,
        path: Path,
        *,
        main: bool = True,
        trackers: Sequence[str] | None = None,
        remote: RemoteRun | None = None,
    ) -> None:
        self.path, self.main, self.remote = path, main, remote
        self.checkpoints = path / CHECKPOINTS
        self._names = chosen_trackers(None) if trackers is None else trackers
        self._trackers: list[Any] = []

    @classmethod
    def create(
        cls, root: Path, recipe: TrainRecipe, identity: Mapping[str, str], *, main: bool = True
    ) -> "RunFolder":
        """`root/<recipe>-<date>` with config and environment. Raises ConfigError if it exists."""
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        folder = cls(root / f"{recipe.name}-{stamp}", main=main)
        if main:
            folder._make(recipe, identity)
        return folder

    @property
    def name(self) -> str:
        """Its address, or its path: the same on all machines of the run."""
        return self.remote.store.where() if self.remote else str(self.path)

    def open(self, step: int) -> None:
        """Prepare to resume after `step` steps: remove later lines of metrics.jsonl."""
        if not self.main:
            return
        path = self.path / METRICS
        if path.exists():
            write_file(path, _until(path, step), label="metrics")
        for name in self._names:
            self._trackers.append(start_tracker(name, self.path, step))

    def metrics(self, step: int, values: Mapping[str, float | int | str]) -> None:
        """Append one line, and the numbers to trackers. CacheError where the disk is full."""
        if not self.main:
            return
        append_line(self.path / METRICS, json.dumps({"step": step, **values}))
        self.track(step, values)

    def track(self, step: int, values: Mapping[str, float | int | str]) -> None:
        """Numbers to trackers alone: rates and memory differ between equal runs."""
        numbers = {name: value for name, value in values.items() if not isinstance(value, str)}
        for tracker in list(self._trackers):
            # MLflow's names hold no "@".
            plain = {name.replace("@", "_"): value for name, value in numbers.items()}
            shown = plain if tracker.name == "mlflow" else numbers
            self._safely(tracker, partial(tracker.log, shown, step=step))

    def log(self, text: str) -> None:
        """Log one line, and append it with the time to log.txt, whatever level is configured."""
        if self.main:
            log.info(text)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            append_line(self.path / "log.txt", f"{now} {escape(text)}")

    def write_json(self, name: str, value: object) -> Path:
        """A small JSON file in the folder, atomic."""
        path = self.path / name
        write_file(path, (json.dumps(value, indent=1) + "\n").encode(), label="run")
        return path

    @contextmanager
    def unless_refused(self, *, new: bool) -> Iterator[None]:
        """A new run that is refused before its first step leaves no folder behind."""
        try:
            yield
        except (Interrupted, NonFiniteError):
            raise
        except SvpError:
            begun = (self.path / METRICS).exists() or any(self.checkpoints.glob("*"))
            if new and self.main and not begun:
                self.close()
                if self.remote is not None:
                    self.remote.remove()
                shutil.rmtree(self.path, ignore_errors=True)
                with suppress(OSError):  # other runs may be there
                    self.path.parent.rmdir()
            raise

    def close(self) -> None:
        """End the trackers, whose last numbers are then written; send what has changed."""
        while self._trackers:
            tracker = self._trackers[-1]
            self._safely(tracker, tracker.finish)
            if tracker in self._trackers:
                self._trackers.remove(tracker)
        if self.remote is not None:
            self.remote.close()

    def _safely(self, tracker: Any, act: Callable[[], object]) -> None:
        """A tracker that fails ends itself, not the training: its numbers are in metrics.jsonl too."""
        try:
            act()
        except Exception as error:  # noqa: BLE001  whatever a tracker's own server gives
            self._trackers.remove(tracker)
            why = f"{type(error).__name__}: {error}"
            self.log(f"--log {tracker.name} fails and gets no more numbers: {show(why, 200)}")

    def _make(self, recipe: TrainRecipe, identity: Mapping[str, str]) -> None:
        if self.path.is_dir():
            where = show(str(self.path), 300)
            raise ConfigError(f"{where}: exists and is not overwritten: try again")
        with writing(self.path):
            self.path.mkdir(parents=True)
            self.checkpoints.mkdir()
        config = recipe.model_dump(mode="json") | {"digest": recipe.digest(), "on": dict(identity)}
        text = yaml.safe_dump(config, sort_keys=False)
        write_file(self.path / CONFIG, text.encode(), label="config")
        self.write_json("env.json", environment())


def _until(path: Path, step: int) -> bytes:
    """The lines of metrics.jsonl up to `step`; a half-written last line is dropped."""
    kept = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            if int(json.loads(line)["step"]) <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            where = f"{show(str(path), 300)} line {number}"
            raise DataError(f"{where}: not a line of metrics: move the file away") from None
    return b"".join(kept)
