"""What a run leaves in the cache's `logs/` folder, for `svp status`, scripts and post-mortems.

    events.jsonl    one line per event of every run, appended
    status.json     counts, rate and time left of the latest run, replaced about once a second
    failures.jsonl  the images that are not in the cache, once each, with reason and detail

Logs are no part of the cache's content: they hold times and process numbers, no digest covers them.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from ..errors import CacheError
from ..executors.base import Event
from ..store.atomic import append_line, make_folders
from ..text import escape, show
from .progress import Tally

STATUS_EVERY_S = 1.0


class RunLog:
    """Writes events and status of one run; two runs on one cache may write at the same time."""

    def __init__(self, folder: Path, tally: Tally) -> None:
        make_folders(folder)
        self._folder, self._tally = folder, tally
        self._written = 0.0

    def update(self, event: Event) -> None:
        """Append `event` (ticks and progress only refresh the status). Raises CacheError if the disk refuses."""
        with _explained(self._folder):
            self._update(event)

    def _update(self, event: Event) -> None:
        if event.kind not in ("tick", "progress"):
            append_line(self._folder / "events.jsonl", _line(event))
        if event.kind == "finished" or time.monotonic() - self._written >= STATUS_EVERY_S:
            self.status("finished" if event.kind == "finished" else "running")

    def status(self, state: str) -> None:
        """Replace status.json; `state` is running, finished or stopped."""
        self._written = time.monotonic()
        tally = self._tally
        record = {
            "state": state,
            "time": _now(),
            "pid": os.getpid(),
            "images": tally.before + tally.images,
            "total": tally.total,
            "images_per_s": round(tally.rate, 3),
            "eta_s": None if tally.left_s is None else round(tally.left_s, 1),
            "elapsed_s": round(tally.elapsed, 1),
            "failures": dict(sorted(tally.failures.items())),
            "trouble": dict(sorted(tally.trouble.items())),
        }
        replace_text(self._folder / "status.json", json.dumps(record, indent=1) + "\n")


def replace_text(path: Path, text: str) -> None:
    """Replace a log file in one step; a reader sees the old or the new text."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="ascii")
    partial.replace(path)


def write_failures(folder: Path, failures: Iterable[dict[str, object]]) -> None:
    """Replace failures.jsonl. Raises CacheError if the disk refuses."""
    lines = (json.dumps(failure) + "\n" for failure in failures)
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(folder / "failures.jsonl", "".join(lines))


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """A refusal of the disk as a CacheError that says what to do."""
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"{show(str(folder), 300)}: cannot write the log: {error.strerror}: free "
            "some space and run the same command again, it continues where it stopped"
        ) from error


def _line(event: Event) -> str:
    record = {
        "time": _now(),
        "kind": event.kind,
        "shard": event.shard,
        "worker": event.worker,
        "detail": escape(event.detail),
        "result": dict(event.result),
    }
    return json.dumps(record, default=str)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
