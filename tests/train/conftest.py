"""Every module trains in the precision it likes."""

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """accelerate keeps a process's first precision; modules run in different ones."""
    _forget()
    yield
    _forget()


def _forget() -> None:
    if "accelerate.state" in sys.modules:
        sys.modules["accelerate.state"].AcceleratorState._reset_state(True)
