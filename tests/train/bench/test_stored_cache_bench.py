"""`svp bench remote` on the object server: what it counts is what the server was asked."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from support.object_server import ObjectServer
from support.small_cache import Made, make_plan, make_rows
from svp.cli import main
from svp.pipeline.bench.synthetic_cache import bench_features, make_cache
from svp.pipeline.cache import CacheReader, create_cache, verify
from svp.pipeline.cache.exchange import copy_cache
from svp.pipeline.errors import ConfigError
from svp.pipeline.store import MemoryStore, ObjectStore, as_place
from svp.train.bench import other_loaders_script as script
from svp.train.bench import stored_cache as remote
from svp.train.data.collate import CachedVisuals, Memory
from svp.train.data.expression_table import Entry


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


def test_the_client_alone_fetches_the_bytes_of_a_pass(
    bucket: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "SHAPE", (16, 8))
    place = as_place("s3://tests/bench/alone")
    found = remote.run(place, make=70, reps=2)
    assert found.alone is not None and min(found.alone) > 0
    reader = CacheReader(place)
    spans = remote._spans(reader, np.arange(70))
    # A row of features and its checksum; areas, cover and masks of two shards as whole files.
    rows = [size for key, _, size in spans if "/dino/" in key]
    files = [(key, size) for key, _, size in spans if "/dino/" not in key]
    assert rows == [16 * 8 * 2 + 4] * 70 and len(files) == 6
    sizes = dict(reader.store.sizes())
    assert all(sizes[key] == size for key, size in files)
    assert found.stored == sum(size for _, _, size in spans) // 70
    bucket.set()
    assert isinstance(reader.store, ObjectStore)
    rate, cpu = remote._fetch_alone(reader.store, spans, 70)
    assert rate > 0 < cpu and bucket.counts() == {"GET": 76}


def test_features_alone_are_those_of_the_rows(
    bucket: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is timed beside other loaders is what they must equal."""
    monkeypatch.setattr(remote, "SHAPE", (16, 8))
    place = as_place("s3://tests/bench/features")
    remote.run(place, make=70)
    digests = []

    def measure(batches: Callable[[], Iterable[script.Batch]], *_: object) -> dict[str, float]:
        digests.append(script.digest(batches()))
        return {"first": 1.0, "wall": 35.0, "cpu": 7.0}

    monkeypatch.setattr(script, "measure_pass", measure)
    sample = remote._Sample(place, np.arange(70), 64, 2, Memory())
    assert sample.features_alone(rep=1) == (1.0, 2.0, 100.0)
    reader = CacheReader(place)
    rows = np.stack([reader.features(i) for i in range(70)])
    assert digests == [script.digest([(range(70), rows)])]


def test_other_loaders_need_features(bucket: ObjectServer, tmp_path: Path) -> None:
    plan = make_plan(3, sam_stored="float16")
    made = Made(tmp_path / "full", plan, make_rows(plan))
    made.write()
    made.finish()
    place = as_place("s3://tests/bench/thin-rivals")
    copy_cache(made.path, place, thin=True)
    with pytest.raises(ConfigError, match="is thin: other loaders are measured on features"):
        remote.run(place, rivals=["litdata"])
    elsewhere = MemoryStore(uuid4().hex)
    make_cache(elsewhere, bench_features(2, (16, 8)))
    with pytest.raises(ConfigError, match="other loaders are measured at s3:// alone"):
        remote.run(elsewhere, rivals=["litdata"])
    assert remote.run(elsewhere).alone is None


def test_of_a_thin_cache_the_means_are_read(bucket: ObjectServer, tmp_path: Path) -> None:
    """Copied there from a folder; one request for the means, two for SAM's embedding."""
    plan = make_plan(10, sam_stored="float16")
    made = Made(tmp_path / "full", plan, make_rows(plan, bad=[2]))
    made.write()
    made.finish()
    place = as_place("s3://tests/bench/thin")
    copied = copy_cache(made.path, place, thin=True)
    there = copy_cache(made.path, tmp_path / "thin", thin=True)
    assert copied.id == there.id and verify(place, full=True).ok
    found = remote.run(place)
    assert found.images == 9 and found.requests[1] == 3.0
    assert found.fields == ("pooled", "sam", "area", "cover", "sspe_masks")
    entries = [Entry("", 0, 0, row, 1, 1) for row in (0, 9, 5)]
    one, two = (
        CachedVisuals([CacheReader(cache)], {"masks"}).read(entries, [None, 1, 2])
        for cache in (place, tmp_path / "thin")
    )
    assert one[0].means is not None and two[0].means is not None
    assert torch.equal(one[0].means, two[0].means) and torch.equal(one[1], two[1])


def test_with_a_tier_the_second_pass_asks_for_no_row(
    bucket: ObjectServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(remote, "SHAPE", (16, 8))
    words = ["bench", "remote", "s3://tests/c", "--make", "130", "--batch", "16", "--json"]
    tier = ["--tier", str(tmp_path / "t"), "--tier-size", "5MB"]
    found = CliRunner().invoke(main, [*words, *tier])
    assert found.exit_code == 0, found.output
    first, second, other = json.loads(found.stdout)["requests"]
    assert first > 1 and second == 0
    # Another reader asks for what says which cache it is, and for no row.
    assert 0 < round(130 * other) <= 28
    found = CliRunner().invoke(main, [*words[:-1], *tier])
    assert "next run" in found.output and re.search(r"tier \S+: (\d+) of \1 reads", found.output)
    found = CliRunner().invoke(main, [*words, *tier[:-1], "4kB"])
    assert found.exit_code == 2 and "--tier-size 4.0 kB holds less than a batch" in found.output


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
