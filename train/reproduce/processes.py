"""Training and evaluation in several processes: `accelerate launch` as a child of this one."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence

from ...pipeline.errors import SvpError
from ...pipeline.run.interrupt import Stop
from .ask import Ask

LAUNCH = ("accelerate", "launch")


def started(words: Sequence[str], ask: Ask) -> None:
    """Run a command of `script` to its end. Raises SvpError if it fails, Interrupted if stopped.

    A signal to this process goes to the launcher once; the ranks then write their checkpoint.
    """
    assert tuple(words[:2]) == LAUNCH
    ask.say(shlex.join(words))
    real = [sys.executable, "-m", "accelerate.commands.launch", *words[2:]]
    with Stop(ask.hint, kept="the last checkpoint is kept") as stop:
        # A group of its own: a terminal's Ctrl-C would reach every rank beside what we send.
        child = subprocess.Popen(real, start_new_session=True)
        try:
            code = _wait(child, stop)
        except BaseException:  # a second signal: end everything at once
            os.killpg(child.pid, signal.SIGKILL)
            raise
        stop.check()
    if code != 0:
        raise SvpError(f"exit code {code} of: {shlex.join(words)} (its own message is above)")


def _wait(child: "subprocess.Popen[bytes]", stop: Stop) -> int:
    """Its exit code; the first signal that comes is handed on, once."""
    told = False
    while True:
        try:
            return child.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            if stop.received is not None and not told:
                child.send_signal(signal.SIGTERM)
                told = True
