"""`svp.Precompute`: the shards that an engine asks for, to the bytes of an undisturbed run."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import svp
from support import ROOT, fake_run
from support.kill_trials import tree
from support.other_writer import other_writer
from svp.pipeline.cache import CacheReader
from svp.pipeline.errors import CacheError, ConfigError, MissingError, PlanMismatchError
from svp.pipeline.precompute import map_batches
from svp.pipeline.precompute.run import RunOptions
from svp.pipeline.records import LocalPaths

SHARDS = -(-40 // fake_run.SHARD)


class FakePrecompute(svp.Precompute):
    """With models of numpy, wherever it is made."""

    def __init__(self, cache: Path, where: LocalPaths) -> None:
        map_batches.ShardTask = fake_run.FakeTask  # type: ignore[misc]
        super().__init__(cache, where)


@pytest.fixture
def planned(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of which the first shard was computed."""
    fake_run.install(monkeypatch)
    monkeypatch.setattr(map_batches, "ShardTask", fake_run.FakeTask)
    cache = tmp_path / "cache"
    report = fake_run.run(cache, world / "images", RunOptions(workers=0, shards=range(1)))
    assert not report.complete and report.good == fake_run.SHARD
    return cache


def finish(cache: Path, world: Path) -> int:
    """The same command again; the images that it still had to compute."""
    report = fake_run.run(cache, world / "images")
    assert report.complete and tree(cache) == tree(world / "clean")
    return report.computed


def test_shards_are_computed_once_and_the_cache_is_finished(planned: Path, world: Path) -> None:
    assert svp.Precompute.missing_shards(planned) == list(range(1, SHARDS))
    compute = svp.Precompute(planned, LocalPaths(world / "images"))
    out = compute({"shard": np.array([3, 1], np.int32)})
    assert list(out) == ["shard", "images", "quarantined", "superpixels", "seconds"]
    assert out["shard"].tolist() == [3, 1] and out["images"].tolist() == [6, 6]
    assert out["quarantined"].tolist() == [0, 0] and (out["superpixels"] >= 6).all()
    assert [array.dtype for array in out.values()] == 4 * [np.int64] + [np.float64]
    again = compute({"shard": np.array([1, 0, 6])})
    assert again["images"].tolist() == [0, 0, 4]
    assert svp.Precompute.missing_shards(planned) == [2, 4, 5]
    assert compute({"shard": np.array([], np.int64)})["images"].tolist() == []
    assert finish(planned, world) == 3 * fake_run.SHARD


def test_a_shard_that_fails_is_named_and_left_to_the_run(
    planned: Path, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_RUN", '{"faults": {"9": "raise", "14": "refuse"}}')
    compute = svp.Precompute(planned, LocalPaths(world / "images"))
    with pytest.raises(CacheError, match="(?s)shard 1: .*a bug in the model"):
        compute({"shard": np.array([1])})
    assert compute({"shard": np.array([2])})["quarantined"].tolist() == [1]
    bad = CacheReader(planned).quarantined
    assert [(one.image_id, one.reason) for one in bad] == [(14, "too-odd")]
    assert svp.Precompute.missing_shards(planned) == [1, 3, 4, 5, 6]


def test_a_shard_that_another_machine_has_committed_with_other_bytes_stands(
    planned: Path, world: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An engine that has lost a machine from sight gives its shard out again."""
    commit, do = other_writer(planned, world / "images", 1), map_batches.WorkerRuntime.do
    monkeypatch.setenv("FAKE_RUN", "{}")
    compute = svp.Precompute(planned, LocalPaths(world / "images"))
    with pytest.raises(CacheError, match="shard 1: .*exists with other bytes"):
        compute({"shard": np.array([1])})

    def commits_meanwhile(*given: Any) -> Any:
        yield from do(*given)
        commit()

    monkeypatch.setattr(map_batches.WorkerRuntime, "do", commits_meanwhile)
    caplog.clear()
    assert compute({"shard": np.array([1])})["images"].tolist() == [0]
    assert "shard 1: " in caplog.text and "exists with other bytes" in caplog.text
    assert svp.Precompute.missing_shards(planned) == [2, 3, 4, 5, 6]


def test_other_libraries_than_the_plans_are_refused(
    planned: Path, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svp.pipeline.executors.worker.installed", lambda name: "0.0")
    with pytest.raises(PlanMismatchError, match=r"0\.0, not .*with which the plan was made"):
        svp.Precompute(planned, LocalPaths(world / "images"))


def test_bad_requests_are_refused(planned: Path, world: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="not a cache of svp"):
        svp.Precompute(tmp_path, LocalPaths(world / "images"))
    compute = svp.Precompute(planned, LocalPaths(world / "images"))
    with pytest.raises(ConfigError, match="need the column 'shard'"):
        compute({"item": np.array([1])})
    for wrong in ([SHARDS], [-1], [0.5], ["a"]):
        with pytest.raises(ConfigError, match=f"need numbers from 0 to {SHARDS - 1}"):
            compute({"shard": np.array(wrong)})


def test_it_travels_by_name() -> None:
    assert pickle.loads(pickle.dumps(svp.Precompute)) is svp.Precompute


@pytest.mark.slow
def test_the_printed_pipeline_of_ray_data_computes_what_is_missing(
    planned: Path, world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ray = pytest.importorskip("ray")
    pytest.importorskip("pandas")
    code = (ROOT / "docs/integration.md").read_text("utf-8").split("```python\n")[2].split("```")[0]
    monkeypatch.setattr(svp, "Precompute", FakePrecompute)
    space: dict[str, Any] = {}
    exec(compile(code, "pipeline.py", "exec"), space)  # noqa: S102 - it is what a user pastes
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80 << 20)
    try:
        space["compute"](str(planned), svp.LocalPaths(world / "images"), 2)
    finally:
        ray.shutdown()
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line[:1].isdigit()]
    assert sorted(int(shard) for shard, *_ in rows) == list(range(1, SHARDS))
    assert sum(int(images) for _, images, *_ in rows) == 40 - fake_run.SHARD
    assert finish(planned, world) == 0
