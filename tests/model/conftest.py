"""The micro model, its batches and the parity cases, as fixtures."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.parity_cases import ParityCase
    from svp.model.batch import Batch
    from svp.model.ris import RisModel


@pytest.fixture
def micro() -> "Callable[..., RisModel]":
    """`micro(projector="svp", lora=None, seed=0)` makes a model."""
    from support.micro_ris import micro_model

    return micro_model


@pytest.fixture
def batch() -> "Callable[..., Batch]":
    """`batch(turns, sizes=None)` makes a batch with a dialogue per image."""
    from support.micro_ris import micro_batch

    return micro_batch


@pytest.fixture(scope="session")
def parity() -> "Callable[[str], ParityCase]":
    """`parity(name)` reads a case of tests/fixtures/projectors."""
    from support.parity_cases import read_case

    return read_case
