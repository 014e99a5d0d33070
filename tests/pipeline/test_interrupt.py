"""A signal ends a command at its next look, at the latest where the block ends: it is never lost."""

import os
import signal

import pytest

from svp.pipeline.errors import Interrupted
from svp.pipeline.process import SIGNALS, Stop


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_after_the_last_look_is_told_at_the_end(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="kept.*To go on: again") as stopped, Stop("again"):
        os.kill(os.getpid(), number)
    assert stopped.value.signum == number
    assert signal.getsignal(number) == before


def test_an_error_of_the_block_is_not_hidden_by_a_signal() -> None:
    with pytest.raises(OSError, match="full"), Stop("again"):
        os.kill(os.getpid(), signal.SIGTERM)
        raise OSError("full")


def test_without_a_signal_nothing_is_raised() -> None:
    with Stop("again") as stop:
        stop.check()
    assert stop.received is None
