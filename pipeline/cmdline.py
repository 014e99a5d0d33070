"""The command line this process was started by, as one to paste into a shell again."""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

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


def resuming(command: str, folder: Path) -> str:
    """`command` with `--resume folder`, in place of the --resume it may have.

    >>> resuming("svp train --resume auto --set 'a=b c'", Path("runs/x"))
    "svp train --set 'a=b c' --resume runs/x"
    """
    kept: list[str] = []
    words = iter(shlex.split(command))
    for word in words:
        if word == "--resume":
            next(words, None)
        elif not word.startswith("--resume="):
            kept.append(word)
    return shlex.join([*kept, "--resume", str(folder)])


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
