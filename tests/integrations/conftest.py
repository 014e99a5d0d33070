"""A small data set with answers, as every interface is given one."""

from pathlib import Path

import pytest

from support.asked_set import read_set, write_answers, write_set
from svp.pipeline.datasets import Source


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_set(tmp_path / "set")


@pytest.fixture
def source(dataset: Path) -> Source:
    return read_set(dataset)


@pytest.fixture
def results(source: Source, tmp_path: Path) -> Path:
    write_answers(source, tmp_path / "val-full-1.jsonl")
    return tmp_path / "val-full-1.jsonl"
