"""Writers with unequal bytes: no race mixes them, and each loser is told why."""

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from support import races
from support.object_server import ObjectServer

Recorder = Callable[[str, object], None]


def check(found: races.Result) -> None:
    assert (found.mixed, found.unexplained) == (0, 0)
    assert found.committed + found.empty == found.races
    assert found.recovered == found.empty
    # A commit may be cut between the manifests of two layers: another writer then finishes it.
    assert found.outcomes["committed"] >= found.committed > 0
    assert found.outcomes["other"] > 0 and found.outcomes["stopped"] > 0


def place(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    if kind == "folder":
        return str(tmp_path / "races")
    request.getfixturevalue("s3")
    return f"s3://tests/{uuid.uuid4().hex}"


@pytest.mark.parametrize("kind", ["folder", "served"])
def test_races(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, record_property: Recorder
) -> None:
    record_property("tried", 60)
    check(races.run(place(kind, tmp_path, request), 60))


def test_races_where_answers_are_lost(s3: ObjectServer, record_property: Recorder) -> None:
    record_property("tried", 30)
    s3.set(lost_rate=0.2, error_rate=0.1, conflict_rate=0.1)
    check(races.run(f"s3://tests/{uuid.uuid4().hex}", 30))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["folder", "served"])
def test_a_thousand_races(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, record_property: Recorder
) -> None:
    record_property("tried", 1000)
    check(races.run(place(kind, tmp_path, request), 1000))
