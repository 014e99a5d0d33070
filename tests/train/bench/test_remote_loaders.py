"""Other loaders over the network: what is sent, compared, timed, printed and left behind."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from support.object_server import ObjectServer
from support.small_cache import make_plan, make_rows
from svp.pipeline.bench.baseline import Package
from svp.pipeline.cache import CacheReader, create_cache, finalize, read_committed, write_shard
from svp.pipeline.errors import ConfigError
from svp.pipeline.store import as_place, open_store
from svp.train.bench import other_loaders_script as script
from svp.train.bench import remote_loaders as remote
from svp.train.bench.other_loaders import RIVALS

ROWS = 10
LITDATA, MOSAIC = RIVALS["litdata"].title, RIVALS["mosaicml"].title
BESIDE = "s3://tests/c.svp-bench-rivals"


@pytest.fixture
def cache(bucket: ObjectServer) -> CacheReader:
    place, plan = as_place("s3://tests/c"), make_plan(ROWS)
    create_cache(place, plan)
    rows = make_rows(plan)
    for shard in range(plan.num_shards):
        first = shard * plan.shard_size
        write_shard(place, plan, shard, rows[first : first + plan.shard_size], {})
    finalize(place, plan, read_committed(place, plan))
    return CacheReader(place, "always")


class Rival:
    """What `open_baseline` gives: it writes one file, and finds it where it is told to read."""

    def __init__(self, files: Path, source: Path, *, right: bool, passes: int = 9) -> None:
        self.failure: str | None = None
        self.files, self.source, self.right, self.passes = files, source, right, passes

    def ask(self, **request: Any) -> dict[str, Any]:
        if not request:
            (self.files / "deep").mkdir(parents=True)
            (self.files / "deep" / "rows.bin").write_bytes(self.source.read_bytes())
            return {"rows": ROWS}
        assert not self.files.exists() and not Path(request["local"]).exists()
        assert request["remote"] == f"{BESIDE}/{self.files.name}"
        sent = open_store(request["remote"]).read("deep/rows.bin", 10**9)
        assert sent == self.source.read_bytes()
        if "check" in request:
            rows = np.load(self.source) + (0 if self.right else 1)
            return {"digest": script.digest([(range(ROWS), rows)])}
        if request["seed"] >= self.passes:
            self.failure = "it crashed"
            return {}
        return {"first": 1.0, "rate": 10.0 * (request["seed"] + 1), "cpu": 4.0}


def compare(
    cache: CacheReader, work: Path, monkeypatch: pytest.MonkeyPatch, **rivals: dict[str, Any] | str
) -> remote.RemoteComparison:
    @contextmanager
    def open_baseline(package: Package, command: list[Any], *rest: object) -> Iterator[Any]:
        assert command[:2] == [script.__file__, package.name] and command[4] == 3
        given = rivals[package.name]
        yield given if isinstance(given, str) else Rival(command[2], command[3], **given)

    monkeypatch.setattr(remote, "open_baseline", open_baseline)
    store = open_store(BESIDE)
    store.create("of/a/killed/run", [b"1"])
    found = remote.compare(
        cache, np.arange(ROWS), [*rivals], work, lambda rep: (0.5, 60.0 + rep, 2.0),
        reps=3, workers=3,
    )  # fmt: skip
    assert not [*store.sizes()]
    assert sorted(os.listdir(work)) == ["features.npy"]
    return found


def test_medians_of_those_whose_rows_are_equal(
    cache: CacheReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = compare(
        cache, tmp_path, monkeypatch, litdata={"right": True}, mosaicml={"right": False}
    )
    assert found.passes == {remote.OURS: (0.5, 61.0, 2.0), LITDATA: (1.0, 20.0, 4.0)}
    assert found.failures == {MOSAIC: "its rows are not the cache's"}
    [target] = found.targets()
    assert (target.value, target.target) == (61 / 20, 1.5)
    lines = found.lines(3)
    assert "3 workers" in lines[0]
    assert lines[2].split()[-2:] == ["3.0", "2.0"] and LITDATA in lines[2]
    assert lines[-1] == f"  {MOSAIC}: not measured: its rows are not the cache's"


def test_one_that_crashes_or_cannot_be_installed_has_no_figures(
    cache: CacheReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = compare(
        cache, tmp_path, monkeypatch, litdata="no network", mosaicml={"right": True, "passes": 1}
    )
    assert list(found.passes) == [remote.OURS] and not found.targets()
    assert found.failures == {LITDATA: "no network", MOSAIC: "it crashed"}


def test_names_over_a_network() -> None:
    assert remote.parse_remote("mosaicml, litdata") == ("mosaicml", "litdata")
    assert remote.parse_remote("all") == ("litdata", "mosaicml") and remote.parse_remote("") == ()
    with pytest.raises(ConfigError, match="rivals=lance: over a network use litdata or mosaicml"):
        remote.parse_remote("litdata,lance")
    with pytest.raises(ConfigError, match="rivals=dali: use any of"):
        remote.parse_remote("dali")


def test_a_pass_is_timed_without_the_start_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pass fetches before and after its first batch; the second finds all files there."""
    clock, fetching = [0.0], [3.0, 0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def batches() -> Iterator[script.Batch]:
        fetch = fetching.pop(0)
        clock[0] += 5.0 + fetch  # workers start
        for _ in range(12):
            yield range(16), None
            clock[0] += 0.25 + fetch / 12

    answer = script.measure_remote(batches, 192, lambda: clock[0] / 2)
    # In all 5 + 3 + 12 * 0.25 + 3 seconds, of which 5 are the start.
    assert answer == {"first": 8.0, "rate": 192 / 9, "cpu": 1000 * 4.5 / 192}


def test_mosaicml_forks_without_an_open_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers on one connection got each other's bytes."""
    made: dict[str, Any] = {}

    def dataset(**given: Any) -> SimpleNamespace:
        made.update(given)
        closed = SimpleNamespace(clean_up=lambda: made.update(closed=True))
        return SimpleNamespace(streams=[SimpleNamespace(_downloader=closed)])

    def loader(data: object, **given: Any) -> list[dict[str, Any]]:
        assert made["closed"]
        return [{"i": [7], "x": [8]}]

    streaming: Any = ModuleType("streaming")
    streaming.StreamingDataset, streaming.StreamingDataLoader = dataset, loader
    monkeypatch.setitem(sys.modules, "streaming", streaming)
    mosaic = object.__new__(script.MosaicML)
    mosaic.workers = 2
    assert [*mosaic.remote("s3://b/m", "/nowhere/yet", 3)] == [([7], [8])]
    assert (made["remote"], made["local"], made["shuffle"]) == ("s3://b/m", "/nowhere/yet", True)
