"""One fault suite for all executors: whatever happens to workers, the shards come out the same."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from support.mock_task import MockTask
from svp.pipeline.errors import CacheError, ConfigError, WeightsError
from svp.pipeline.executors import EXECUTORS, Event, ExecutorOptions, build
from svp.pipeline.executors.base import Abandoned, BatchDone, Done, Failed, Hung, Poisoned, Started

MakeTask = Callable[..., MockTask]


@pytest.fixture
def make(tmp_path: Path) -> MakeTask:
    def make(name: str = "out", **options: Any) -> MockTask:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / "marks").mkdir(exist_ok=True)
        return MockTask(str(tmp_path / name), str(tmp_path / "marks"), **options)

    return make


def run(task: MockTask, executor: str = "local", workers: int = 2, **limits: Any) -> list[Event]:
    how = build(executor, ExecutorOptions(workers=workers))
    return list(how.events(task, task.shards, **limits))


def of(kind: type[Any], events: list[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def files(task: MockTask) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(task.out).iterdir())}


@pytest.fixture
def clean(make: MakeTask) -> dict[str, bytes]:
    """The shards with images 5 and 14 left out, computed in this process."""
    task = make("clean", faults={5: "raise", 14: "raise"})
    run(task, workers=0)
    return files(task)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_every_fault_at_once(executor: str, make: MakeTask, clean: dict[str, bytes]) -> None:
    """Killed and failing workers, a hung one, two poison images: nothing lost, nothing twice."""
    faults = {5: "kill", 14: "raise", 9: "exit_once", 17: "kill_once", 22: "hang_once"}
    task = make(faults=faults)
    events = run(task, executor, shard_timeout_s=4.0)
    assert files(task) == clean
    done = of(Done, events)
    assert sorted(e.shard for e in done) == list(task.shards), "each shard is reported once"
    poison = sorted((e.shard, e.row, e.reason) for e in of(Poisoned, events))
    assert poison == [(1, 1, "worker_died"), (3, 2, "worker_error")]
    assert not of(Abandoned, events)
    assert len(of(Hung, events)) == 1
    tries = [e.shard for e in of(Failed, events)]
    assert tries.count(2) == 1, "a shard whose worker died once is tried once more"
    assert [e.report.seconds for e in done] == [
        {"OMP_NUM_THREADS": 1.0, "MKL_NUM_THREADS": 1.0}
    ] * len(task.shards)


@pytest.mark.parametrize("executor", [*EXECUTORS, "inline"])
def test_each_image_is_told_of_before_its_shard_is_done(executor: str, make: MakeTask) -> None:
    """One shard of 12 images: their progress is reported meanwhile, by every executor."""
    task = make(images=12, per_shard=12, delay=0.25)
    inline = executor == "inline"
    events = run(task, "local" if inline else executor, workers=0 if inline else 1)
    (done,) = of(Done, events)
    before = of(BatchDone, events[: events.index(done)])
    assert 1 <= len(before) <= 12 and len(of(BatchDone, events)) == len(before)
    assert {(e.shard, e.worker, e.report.images) for e in before} == {(0, 0, 1)}
    assert all(e.report.quarantined in ({}, {"odd": 1}) for e in before)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_worker_count_changes_nothing(
    workers: int, make: MakeTask, clean: dict[str, bytes]
) -> None:
    task = make(faults={5: "raise", 14: "raise"})
    run(task, workers=workers)
    assert files(task) == clean


def test_too_many_poison_images_park_the_shard_and_the_run_goes_on(make: MakeTask) -> None:
    task = make(images=24, per_shard=8, faults=dict.fromkeys(range(8, 14), "raise"))
    events = run(task, workers=0)
    assert {e.shard for e in of(Done, events)} == {0, 2}
    (abandoned,) = of(Abandoned, events)
    assert abandoned.shard == 1 and "images stop their worker" in abandoned.detail
    assert not Path(task.out, "1.bin").exists()


def test_nothing_works_stops_the_run(make: MakeTask) -> None:
    task = make(images=40, faults=dict.fromkeys(range(40), "raise"), per_shard=6)
    with pytest.raises(CacheError, match="first 3 shards all failed.*the images are not the cause"):
        run(task, workers=0)


def test_error_of_ours_ends_the_run_at_once(make: MakeTask) -> None:
    task = make(faults={0: "full"}, delay=0.01)
    with pytest.raises(CacheError, match="disk full"):
        run(task)


def test_workers_that_cannot_load_their_models(make: MakeTask) -> None:
    with pytest.raises(WeightsError, match="wrong checkpoint"):
        run(make(load="weights"))
    with pytest.raises(CacheError, match="worker 0 is left out: RuntimeError: no memory for the m"):
        run(make(load="raise"), workers=0)
    with pytest.raises(CacheError, match="worker 0 is left out: worker ended by exit code 7"):
        run(make(load="die"), workers=1)


def test_listener_may_stop_the_run(make: MakeTask) -> None:
    """Closing the events ends the workers, also one that hangs."""
    import psutil

    task = make(faults={0: "hang"})
    with closing(build("local", ExecutorOptions(workers=2)).events(task, task.shards)) as events:
        next(event for event in events if isinstance(event, Done))
    lines = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    assert not [line for line in lines if "spawn_main" in line]


def test_more_workers_than_shards(make: MakeTask) -> None:
    task = make(images=3)
    events = run(task, workers=4)
    assert [e.shard for e in of(Done, events)] == [0]
    assert events[0] == Started(shards=1, workers=1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("slurm", {}, "executor slurm: allowed are dask, local, ray"),
        ("local", {"ray_address": "auto"}, "ray_address requires executor=ray"),
        ("ray", {"dask_scheduler": "tcp://x:1"}, "dask_scheduler requires executor=dask"),
        ("local", {"device": "tpu"}, "device=tpu"),
        ("local", {"device": "cpu:1"}, "device=cpu:1"),
        ("local", {"threads": 0}, "threads=0"),
        ("local", {"workers": -1}, "workers=-1"),
    ],
)
def test_wrong_options(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(name, ExecutorOptions(**options))  # type: ignore[arg-type]
