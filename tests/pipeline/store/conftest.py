"""Stores of each kind, each empty."""

import uuid
from pathlib import Path

import pytest

from svp.pipeline.store import Store, open_store

KINDS = ["folder", "memory"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def place(kind: str, tmp_path: Path) -> str:
    """Address of an empty place of this kind."""
    return {"folder": str(tmp_path / "store"), "memory": f"memory://{uuid.uuid4().hex}/p"}[kind]


@pytest.fixture
def store(place: str) -> Store:
    return open_store(place)
