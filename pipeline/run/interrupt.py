"""SIGINT and SIGTERM end a run cleanly: the handler only takes a note, the run looks at it.

Nothing is torn out of the middle of a write, and workers are ended before the command is. A second
signal of the same kind acts at once, as without this module.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Self

from ..errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """`with Stop(hint) as stop:` ... `stop.check()` raises Interrupted once a signal came.

    So does the end of the block: a signal after the last check would else be lost on a command that
    goes on to other work.

    hint  the command that resumes the run; it ends the error's message
    kept  what the stop does not lose
    """

    def __init__(self, hint: str, kept: str = "committed shards are kept") -> None:
        self._hint, self._kept = hint, kept
        self._received: int | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        if kind is None:
            self.check()

    @property
    def received(self) -> int | None:
        """The number of the signal that came, if one did."""
        return self._received

    def check(self) -> None:
        """Raise Interrupted if a signal came."""
        if self._received is not None:
            raise self.error(self._received)

    def error(self, number: int) -> Interrupted:
        """What a stop by signal `number` is told as."""
        name = signal.Signals(number).name
        return Interrupted(number, f"stopped by {name}: {self._kept}. To go on: {self._hint}")

    def _take(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else 0)
