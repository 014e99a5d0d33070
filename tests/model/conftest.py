"""The micro model and its batches (tests/fixtures/ris), as fixtures and importable by name."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures" / "ris"))
sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures" / "projectors"))

if TYPE_CHECKING:
    from parity_cases import ParityCase

    from svp.model.batch import Batch
    from svp.model.ris import RisModel


@pytest.fixture
def micro() -> "Callable[..., RisModel]":
    """`micro(projector="svp", lora=None, seed=0)` makes a model."""
    from micro_ris import micro_model

    return micro_model


@pytest.fixture
def batch() -> "Callable[..., Batch]":
    """`batch(turns, sizes=None)` makes a batch with a dialogue per image."""
    from micro_ris import micro_batch

    return micro_batch


@pytest.fixture(scope="session")
def parity() -> "Callable[[str], ParityCase]":
    """`parity(name)` reads a case of tests/fixtures/projectors."""
    from parity_cases import read_case

    return read_case
