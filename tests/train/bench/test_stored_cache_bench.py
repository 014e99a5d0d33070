"""`svp bench remote` on the object server: what it counts is what the server was asked."""

from uuid import uuid4

import pytest
from click.testing import CliRunner

from support.object_server import ObjectServer
from support.small_cache import make_plan
from svp.cli import main
from svp.pipeline.cache import create_cache
from svp.pipeline.errors import ConfigError
from svp.pipeline.store import MemoryStore, as_place
from svp.train.bench import stored_cache as remote


def test_requests_are_those_the_server_was_asked(
    bucket: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "SHAPE", (16, 8))
    place = as_place("s3://tests/bench/c")
    made = remote.run(place, make=130)
    assert made.images == 130 and min(made.images_per_s) > 0
    bucket.set()
    again = remote.run(place, make=130, batch=16)  # it is there: nothing is made
    assert not bucket.counts().keys() - {"GET", "LIST", "HEAD"}
    # Each row is one request. Four arrays have a zarr.json and in each of three shards one file that
    # is opened, by one thread or by both at once; afterwards rows alone are read.
    first, second = again.requests
    assert 130 + 4 + 12 <= round(130 * first) <= 130 + 2 * (4 + 12) and second == 1.0
    asked = sum(bucket.counts().values())
    assert asked >= 130 * sum(again.requests)


def test_a_folder_is_refused() -> None:
    with pytest.raises(ConfigError, match="is a folder: name a cache at an address"):
        remote.run(as_place("here"))


def test_a_cache_without_images_is_told() -> None:
    place = MemoryStore(uuid4().hex)
    create_cache(place, make_plan(4))
    with pytest.raises(ConfigError, match="holds no image yet"):
        remote.run(place)


def test_the_command_prints_rates(bucket: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "SHAPE", (16, 8))
    found = CliRunner().invoke(main, ["bench", "remote", "s3://tests/c", "--make", "20"])
    assert found.exit_code == 0, found.output
    assert "requests per image" in found.output and "s3://tests/c: 20 images" in found.output
