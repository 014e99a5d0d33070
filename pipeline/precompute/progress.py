"""Progress of a run: on the terminal, and as machine-readable logs in `logs/`.

A bar on a terminal, one plain line every few seconds elsewhere; NO_COLOR is honoured. Everything
that could come from a file is escaped before it is printed.

    events.jsonl    one line per event of every run, appended; on an object store a file per process
    status.json     counts, rate and time left of the latest run, replaced about once a second
    failures.jsonl  the images that are not in the cache, once each, with reason and detail

Logs are no part of the cache's content: they hold times and process numbers, no digest covers them.
"""

import json
import logging
import os
import platform
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Self

import psutil

from ..cache.layout import LOGS
from ..display import counted, duration, escape, shorten
from ..errors import CacheError, MissingError
from ..executors.base import (
    Abandoned,
    BatchDone,
    Collided,
    Died,
    Done,
    Draining,
    Event,
    Failed,
    FalseStart,
    Finished,
    Hung,
    LeftOut,
    Poisoned,
    Ready,
    Requeued,
    SearchStarted,
    Tick,
)
from ..io.atomic import append_line, make_folders, writer_id
from ..store import FolderStore, Place, Store, open_store

log = logging.getLogger(__name__)

PLAIN_EVERY_S = 10.0
WINDOW_S = 300.0  # what the rate is taken over
LASTING = (
    Failed, Collided, SearchStarted, Poisoned, Abandoned, FalseStart, LeftOut, Draining, Requeued,
)  # fmt: skip


class Tally:
    """Counts of one run, kept from its events.

    `total` counts the images of the cache and `before` those committed by other runs, earlier or
    beside this one. Images of shards under way count as soon as their worker tells of them; a shard
    that fails takes its own back.
    """

    def __init__(self, total: int, before: int = 0) -> None:
        self.total, self.before = total, before
        self.shards = 0
        self.abandoned: dict[int, str] = {}  # shards that exhausted their retries, with the cause
        self.trouble: Counter[str] = Counter()  # worker deaths and the like, by event kind
        self.seconds: Counter[str] = Counter()  # worker time by stage
        self._images = 0
        self._failures: Counter[str] = Counter()
        self._under_way: dict[int | None, tuple[int, Counter[str]]] = {}  # by shard
        self._ready = self._over = False
        self._began = time.monotonic()
        self._seen = deque([(self._began, before)])  # (when, images) of the last `WINDOW_S`

    def update(self, event: Event) -> None:
        """Take note of `event`."""
        match event:
            case Ready() if not self.images:
                self._ready = True
                # Loading models is not computing.
                self._seen = deque([(time.monotonic(), self.before)])
            case BatchDone():
                images, failures = self._under_way.get(event.shard, (0, Counter()))
                failures.update(event.report.quarantined)
                self._under_way[event.shard] = images + event.report.images, failures
                self._note()
            case Done():
                self._under_way.pop(event.shard, None)
                self.shards += 1
                self._images += event.report.images
                self._failures.update(event.report.quarantined)
                self.seconds.update(event.report.seconds)
                self._note()
            case Died() | Hung() | LeftOut():
                self.trouble[event.kind] += 1
            case Failed() | Collided() | Abandoned() | Requeued():
                self.trouble[event.kind] += 1
                self._under_way.pop(event.shard, None)
        if isinstance(event, Abandoned) and event.shard is not None:
            self.abandoned[event.shard] = event.detail

    def others(self, images: int) -> None:
        """Take note of images that runs beside this one have committed."""
        self.before += images
        self._note()

    @property
    def images(self) -> int:
        """Images this run has computed, good or not."""
        return self._images + sum(images for images, _ in self._under_way.values())

    @property
    def failures(self) -> Counter[str]:
        """Images that will not be in the cache, by reason."""
        return sum((found for _, found in self._under_way.values()), Counter(self._failures))

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._began

    @property
    def rate(self) -> float:
        """Images per second over the last minutes, of runs beside this one as well.

        Start-up is left out; 0 before the first image.
        """
        (first, before), (last, now) = self._seen[0], self._seen[-1]
        if now <= before:
            return 0.0
        # Between two batches the rate stays; once the next is late, the wait counts.
        usual = (last - first) / max(1, len(self._seen) - 1)
        return (now - before) / max(last - first, time.monotonic() - usual - first, 1e-9)

    @property
    def left_s(self) -> float | None:
        """Seconds to go at this rate, None while unknown."""
        left = self.total - self.before - self.images
        return left / self.rate if self.rate else None

    def _note(self) -> None:
        self._seen.append((time.monotonic(), self.before + self.images))
        while len(self._seen) > 2 and self._seen[1][0] < self._seen[-1][0] - WINDOW_S:
            self._seen.popleft()

    def line(self) -> str:
        """Progress of the run in one printable line."""
        parts = [
            f"{self.before + self.images:,}/{counted(self.total, 'image')}",
            *self._pace(),
            *(f"{name}={count}" for name, count in sorted((self.failures | self.trouble).items())),
        ]
        return escape("  ".join(parts))

    def end(self) -> None:
        """The run is over: nothing more will be on its way."""
        self._over = True

    def _pace(self) -> list[str]:
        """Rate and time left; before the first image of the run what it waits for."""
        if self.images:
            return [f"{self.rate:.1f}/s", f"ETA {duration(self.left_s)}"]
        if self._over:
            return []
        return ["first images under way" if self._ready else "loading models"]


class Progress:
    """Show a `Tally` during a run: `with Progress(tally) as show: show.update(event)`."""

    def __init__(self, tally: Tally, every_s: float = PLAIN_EVERY_S) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn
        from rich.progress import Progress as Bar

        self.tally, self._every, self._last = tally, every_s, time.monotonic()
        console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self._bar = None
        shown = log.isEnabledFor(logging.INFO)
        if shown and console.is_terminal and not console.is_dumb_terminal:
            text = TextColumn("{task.description}", markup=False)
            self._bar = Bar(SpinnerColumn(), BarColumn(24), text, console=console, transient=True)
            self._row = self._bar.add_task(tally.line(), total=tally.total)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar:
            self._bar.stop()
        self.tally.end()
        log.info(self.tally.line())

    def update(self, event: Event) -> None:
        """Redraw; a lasting line for what the user should know of."""
        if isinstance(event, LASTING):
            what = event.kind.replace("_", " ")
            whose = f"shard {event.shard}" if event.shard is not None else f"worker {event.worker}"
            log.info(escape(f"{whose}: {what}: {_first_line(event)}"))
        if self._bar:
            done = self.tally.before + self.tally.images
            self._bar.update(self._row, completed=done, description=self.tally.line())
        elif time.monotonic() - self._last >= self._every:
            self._last = time.monotonic()
            log.info(self.tally.line())


def _first_line(event: Event) -> str:
    text = event.detail.strip().partition("\n")[0] or ", ".join(
        f"{name} {value}" for name, value in event.result.items()
    )
    return shorten(text, 600)


STATUS, EVENTS, FAILURES = "status.json", "events.jsonl", "failures.jsonl"
STATUS_EVERY_S = 1.0
STORED_EVERY_S = (
    20.0  # on an object store, where a status is a request and events have no end to add to
)
MAX_STATUS_BYTES = 1 << 20
LOST_S = 60.0  # without a new status: the run is gone


class RunLog:
    """Writes events and status of one run; two runs on one cache may write at the same time."""

    def __init__(self, cache: Store, tally: Tally) -> None:
        self._logs, self._tally = cache.sub(LOGS), tally
        self._written, self._every = 0.0, STORED_EVERY_S
        self._lines: list[str] = []
        if isinstance(self._logs, FolderStore):
            make_folders(self._logs.root)
            self._every = STATUS_EVERY_S

    def update(self, event: Event) -> None:
        """Add `event` (ticks and progress only refresh the status). Raises CacheError if the place refuses."""
        finished = isinstance(event, Finished)
        if not isinstance(event, Tick | BatchDone):
            if isinstance(self._logs, FolderStore):
                append_line(self._logs.path(EVENTS), _line(event))
            else:
                self._lines.append(_line(event))
        if finished or time.monotonic() - self._written >= self._every:
            self.status("finished" if finished else "running")

    def status(self, state: str) -> None:
        """Replace status.json; `state` is running, finished or stopped."""
        self._written = time.monotonic()
        tally = self._tally
        record = {
            "state": state,
            "time": _now(),
            "host": platform.node(),
            "pid": os.getpid(),
            "images": tally.before + tally.images,
            "total": tally.total,
            "images_per_s": round(tally.rate, 3),
            "eta_s": None if tally.left_s is None else round(tally.left_s, 1),
            "elapsed_s": round(tally.elapsed, 1),
            "failures": dict(sorted(tally.failures.items())),
            "trouble": dict(sorted(tally.trouble.items())),
        }
        self._logs.replace(STATUS, json.dumps(record, indent=1).encode() + b"\n")
        if self._lines:
            lines = "".join(f"{line}\n" for line in self._lines)
            self._logs.replace(f"events-{writer_id()}.jsonl", lines.encode())


def read_status(cache: Place) -> dict[str, Any] | None:
    """The latest run by its status.json; None if there is none that can be read.

    A state of "running" that was not renewed for a minute is given as "lost": the process was
    killed, or its machine is gone. Only on its own machine it can be seen to be still at work.
    """
    try:
        status = json.loads(open_store(cache).read(f"{LOGS}/{STATUS}", MAX_STATUS_BYTES))
        written = datetime.fromisoformat(status["time"]).timestamp()
        running, host, pid = status["state"] == "running", status.get("host"), int(status["pid"])
        int(status["total"])
    except (CacheError, MissingError, ValueError, KeyError, TypeError):
        return None
    if running and time.time() - written > LOST_S and not is_at_work(host, pid, written):
        status["state"] = "lost"
    return dict(status)


def is_at_work(host: object, pid: int, written: float) -> bool:
    """Whether the process `pid` of this machine is there and older than what it wrote."""
    if host != platform.node():
        return False
    try:
        return bool(psutil.Process(pid).create_time() <= written)
    except psutil.Error:
        return False


def status_line(status: Mapping[str, Any]) -> str:
    """One printable line on the latest run."""
    rate = f", {status.get('images_per_s')}/s" if status["state"] == "running" else ""
    done = f"{status.get('images')} of {counted(int(status['total']), 'image')}"
    line = f"latest run: {status['state']} at {status['time']}, {done}{rate}"
    hint = ": the same svp precompute finishes it" if status["state"] == "lost" else ""
    return shorten(line + hint, 300)


def write_failures(cache: Store, failures: Iterable[dict[str, object]]) -> None:
    """Replace failures.jsonl. Raises CacheError if the place refuses."""
    lines = "".join(json.dumps(failure) + "\n" for failure in failures)
    cache.replace(f"{LOGS}/{FAILURES}", lines.encode())


def _line(event: Event) -> str:
    record = {
        "time": _now(),
        "kind": event.kind,
        "shard": event.shard,
        "worker": event.worker,
        "detail": escape(event.detail),
        "result": event.result,
    }
    return json.dumps(record, default=str)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
