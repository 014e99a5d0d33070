"""This process: command line, device, peak memory, work in a second thread, graceful shutdown on
SIGINT and SIGTERM.

The signal handler sets a flag that the run polls, so nothing is torn out of the middle of a write
and workers are ended before the command is. A second signal of the same kind acts at once, as
without this module.
"""

import os
import resource
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Self, TypeVar

from .display import counted
from .errors import ConfigError, Interrupted

# Of NVIDIA on Linux, on its Jetson and in Windows' Linux, and AMD's.
DRIVERS = ("/dev/nvidiactl", "/dev/nvhost-ctrl", "/dev/nvgpu", "/dev/dxg", "/dev/kfd")
_LAUNCHED = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID", "RANK")  # set by launchers


def this_command() -> str:
    """The whole command, quoted for a shell, with the launcher that started this process.

    >>> "svp" in this_command()
    True
    """
    return shlex.join(started_by(sys.argv, os.environ, _parent_words()))


def started_by(
    argv: Sequence[str], environment: Mapping[str, str], parent: Sequence[str]
) -> list[str]:
    """The words of the command.

    parent  words of the parent process, which is the launcher in a run of `accelerate launch` or
            `torchrun`; empty where they cannot be read

    >>> started_by(["/usr/bin/svp", "train", "--set", "a=[1, 2]"], {}, [])
    ['svp', 'train', '--set', 'a=[1, 2]']
    """
    own = ["svp", *argv[1:]]
    if not any(name in environment for name in _LAUNCHED):
        return own
    words = _without_interpreter(parent)
    if words and _ends_with(words, argv[1:]):
        return words
    processes = environment.get("WORLD_SIZE", "1")
    return ["accelerate", "launch", "--num_processes", processes, "-m", *own]


def resuming(command: str, run: str) -> str:
    """`command` with `--resume run`, in place of the --resume it may have.

    >>> resuming("svp train --resume auto --set 'a=b c'", "runs/x")
    "svp train --set 'a=b c' --resume runs/x"
    """
    kept: list[str] = []
    words = iter(shlex.split(command))
    for word in words:
        if word == "--resume":
            next(words, None)
        elif not word.startswith("--resume="):
            kept.append(word)
    return shlex.join([*kept, "--resume", run])


def _parent_words() -> list[str]:
    try:
        raw = Path(f"/proc/{os.getppid()}/cmdline").read_bytes()
    except OSError:  # no /proc, or not ours to read
        return []
    return [word.decode("utf-8", "replace") for word in raw.split(b"\0")[:-1]]


def _without_interpreter(words: Sequence[str]) -> list[str]:
    """`python /path/accelerate launch ...` -> `accelerate launch ...`; `python -m x` is kept."""
    if len(words) > 1 and Path(words[0]).name.startswith("python"):
        rest = list(words[1:])
        return ["python", *rest] if rest[0].startswith("-") else [Path(rest[0]).name, *rest[1:]]
    return list(words)


def _ends_with(words: Sequence[str], tail: Sequence[str]) -> bool:
    return bool(tail) and list(words[-len(tail) :]) == list(tail)


def peak_rss() -> int:
    """The most memory this process ever held, bytes.

    On Linux not from getrusage: its value outlives exec, so a child would report its parent's.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    if found := [line for line in lines if line.startswith("VmHWM:")]:
        return int(found[0].split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@cache  # a search of the import path each time, and a plan of all tables asks 700 times
def installed(package: str) -> str:
    """The version of a package that is installed here, "none" if it is not."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def require_own_gpus(device: str, processes: int) -> None:
    """Raise ConfigError for `cuda:N` in a run of several processes: each takes a GPU of its own."""
    if processes > 1 and device.startswith("cuda:"):
        raise ConfigError(
            f"--device {device} with {counted(processes, 'process')}: each takes a GPU of its own: "
            "--device cuda, and choose GPUs with CUDA_VISIBLE_DEVICES"
        )


def pick_device(name: str) -> str:
    """`auto` becomes `cuda` where there is a CUDA device, else `cpu`; other names are kept."""
    if name != "auto":
        return name
    if (
        "torch" not in sys.modules
        and sys.platform == "linux"
        and not any(map(os.path.exists, DRIVERS))
    ):
        return "cpu"  # told without the second that the import of torch takes
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def compiles(device: str) -> bool:
    """Whether `torch.compile` pays on a device of this type.

    CUDA with Triton; on a CPU compiling takes longer than a tiny run saves.
    """
    return device == "cuda" and find_spec("triton") is not None


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch: CPU seconds of several would count waiting."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


Item = TypeVar("Item")
Made = TypeVar("Made")


def overlapped(work: Callable[[Item], Made], items: Iterable[Item]) -> Generator[Made, None, None]:
    """`work` of each item in order, in a second thread, while the caller has the one before.

    The caller's thread makes the items. At most two are on their way: one at work or done, one with
    the caller. An exception of `work` is raised where its result would have come; closing waits for
    the item at work. NumPy, Pillow and torch compute without the interpreter's lock.
    """
    with ThreadPoolExecutor(1, "svp-overlapped") as thread:
        ahead: Future[Made] | None = None
        for item in items:
            following = thread.submit(work, item)
            if ahead is not None:
                yield ahead.result()
            ahead = following
        if ahead is not None:
            yield ahead.result()


SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """`with Stop(hint) as stop:` ... `stop.check()` raises Interrupted once a signal came.

    So does the end of the block: a signal after the last check would else be lost on a command that
    continues with other work.

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

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
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
        """Exception for a stop by signal `number`."""
        name = signal.Signals(number).name
        return Interrupted(number, f"stopped by {name}: {self._kept}. To resume: {self._hint}")

    def _take(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else 0)
