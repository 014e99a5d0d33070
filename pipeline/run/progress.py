"""How far a run is: counts, rate, time left and failures by cause, for people to watch.

A bar on a terminal, one plain line every few seconds elsewhere; NO_COLOR is honoured. Everything
that could come from a file is escaped before it is printed.
"""

import sys
import time
from collections import Counter, deque
from collections.abc import Mapping
from types import TracebackType
from typing import Self, TextIO

from ..executors.base import Event
from ..text import escape, shorten

PLAIN_EVERY_S = 10.0
WINDOW_S = 300.0  # what the rate is taken over


class Tally:
    """Counts of one run, kept from its events.

    `total` counts the images of the cache and `before` those committed by earlier runs. Images of
    shards under way count as soon as their worker tells of them; a shard that fails takes its own
    back.
    """

    def __init__(self, total: int, before: int = 0) -> None:
        self.total, self.before = total, before
        self.shards = 0
        self.trouble: Counter[str] = Counter()  # worker deaths and the like, by event kind
        self.seconds: Counter[str] = Counter()  # worker time by stage
        self._images = 0
        self._failures: Counter[str] = Counter()
        self._under_way: dict[int | None, tuple[int, Counter[str]]] = {}  # by shard
        self._ready = self._over = False
        self._began = time.monotonic()
        self._seen = deque([(self._began, 0)])  # (when, images) of the last `WINDOW_S`

    def update(self, event: Event) -> None:
        """Take note of `event`."""
        if event.kind == "worker_ready" and not self.images:
            self._ready = True
            self._seen = deque([(time.monotonic(), 0)])  # loading models is not computing
        elif event.kind == "progress":
            images, failures = self._under_way.get(event.shard, (0, Counter()))
            images += _number(event.result.get("images"))
            self._count(failures, event.result.get("quarantined"))
            self._under_way[event.shard] = images, failures
            self._note()
        elif event.kind == "shard_done":
            self._under_way.pop(event.shard, None)
            self.shards += 1
            self._images += _number(event.result.get("images"))
            self._count(self._failures, event.result.get("quarantined"))
            self._count(self.seconds, event.result.get("seconds"))
            self._note()
        elif event.kind in ("worker_died", "worker_hung", "shard_failed", "shard_parked"):
            self.trouble[event.kind] += 1
        if event.kind in ("shard_failed", "shard_parked"):
            self._under_way.pop(event.shard, None)

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
        """Images per second over the last minutes, start-up left out; 0 before the first."""
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
        self._seen.append((time.monotonic(), self.images))
        while len(self._seen) > 2 and self._seen[1][0] < self._seen[-1][0] - WINDOW_S:
            self._seen.popleft()

    def line(self) -> str:
        """Where the run is, in one printable line."""
        parts = [
            f"{self.before + self.images}/{self.total} images",
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

    @staticmethod
    def _count(counter: Counter[str], values: object) -> None:
        if isinstance(values, Mapping):
            for name, value in values.items():
                counter[str(name)] += value


class Progress:
    """Shows a `Tally` while a run goes on: `with Progress(tally) as show: show.update(event)`."""

    def __init__(
        self, tally: Tally, stream: TextIO | None = None, every_s: float = PLAIN_EVERY_S
    ) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn
        from rich.progress import Progress as Bar

        self.tally, self._every, self._last = tally, every_s, time.monotonic()
        self._stream = stream or sys.stderr
        console = Console(file=self._stream, highlight=False, markup=False, soft_wrap=True)
        self._bar = None
        if console.is_terminal and not console.is_dumb_terminal:
            text = TextColumn("{task.description}", markup=False)
            self._bar = Bar(SpinnerColumn(), BarColumn(24), text, console=console, transient=True)
            self._row = self._bar.add_task(tally.line(), total=tally.total)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()
        self.tally.end()
        self._say(self.tally.line())

    def update(self, event: Event) -> None:
        """Redraw; a lasting line for what the user should know of."""
        if event.kind in ("shard_failed", "shard_hunt", "image_poison", "shard_parked"):
            what = event.kind.replace("_", " ")
            self._say(f"shard {event.shard}: {what}: {_last_line(event)}")
        if self._bar:
            done = self.tally.before + self.tally.images
            self._bar.update(self._row, completed=done, description=self.tally.line())
        elif time.monotonic() - self._last >= self._every:
            self._last = time.monotonic()
            self._say(self.tally.line())

    def _say(self, text: str) -> None:
        print(escape(text), file=self._stream, flush=True)


def duration(seconds: float | None) -> str:
    """Hours, minutes and seconds as people read them.

    >>> duration(3725), duration(42.4), duration(None)
    ('1:02:05', '0:42', '?')
    """
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _last_line(event: Event) -> str:
    text = event.detail.strip().rpartition("\n")[2] or ", ".join(
        f"{name} {value}" for name, value in event.result.items()
    )
    return shorten(text, 200)


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
