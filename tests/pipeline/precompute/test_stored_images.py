"""`precompute` over photographs in object storage: the bytes of a folder's cache, whatever fails."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import fake_run
from support.fake_run import RECIPE, SIDE
from support.kill_trials import tree
from support.object_server import ObjectServer
from support.uploads import upload
from svp.pipeline.cache.plan import Plan
from svp.pipeline.datasets.stored_photos import listing
from svp.pipeline.errors import CacheError
from svp.pipeline.executors.base import Done, Event
from svp.pipeline.precompute import planner
from svp.pipeline.precompute import run as precompute
from svp.pipeline.precompute.planner import Content
from svp.pipeline.precompute.run import RunOptions
from svp.pipeline.precompute.run_report import PrecomputeReport
from svp.pipeline.records import ImageRecord, LocalPaths
from svp.pipeline.store import Store, open_store
from svp.pipeline.store.in_flight import HEDGE_BURST, HEDGE_SHARE

ADDRESS = "s3://tests/photos"


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    fake_run.install(monkeypatch)
    yield


@pytest.fixture
def root(world: Path, bucket: ObjectServer) -> Path:
    """The world's images, in a bucket."""
    found = upload(world / "images", ADDRESS)
    bucket.set()
    return found


@pytest.fixture
def store(root: Path) -> Store:
    return open_store(ADDRESS)


def run(cache: Path, root: Path, **given: object) -> PrecomputeReport:
    options = RunOptions(**{"workers": 0, **given})  # type: ignore[arg-type]
    return fake_run.run(cache, root, options, count=40)


def run_with(
    cache: Path, root: Path, on_event: Callable[[Event], None], **given: object
) -> PrecomputeReport:
    """`run` that is told of its events."""
    os.environ["FAKE_RUN"] = "{}"
    records = [ImageRecord(number, f"{number}.png", 12, SIDE) for number in range(1, 41)]
    content = Content(records, "train", listed=listing(root))
    options = RunOptions(workers=0, **given)  # type: ignore[arg-type]
    return precompute.precompute(
        content, RECIPE, LocalPaths(root), cache, options, on_event=on_event, quiet=True
    )


def reasons(cache: Path) -> dict[int, str]:
    lines = (cache / "logs" / "failures.jsonl").read_text().splitlines()
    return {line["image_id"]: line["reason"] for line in map(json.loads, lines)}


def assert_asked(bucket: ObjectServer, lists: int, reads: int) -> None:
    """So many requests; a reading that takes long may be asked for once more (see `Hedging`)."""
    found = bucket.counts()
    assert found.get("LIST", 0) == lists and not found.keys() - {"LIST", "GET"}
    assert reads <= found["GET"] <= reads + HEDGE_BURST + HEDGE_SHARE * reads


@pytest.mark.parametrize("workers", [0, 2])
def test_the_cache_is_that_of_the_folder(
    world: Path, root: Path, tmp_path: Path, bucket: ObjectServer, workers: int
) -> None:
    report = run(tmp_path / "c", root, workers=workers)
    assert (report.good, report.complete) == (40, True)
    assert tree(tmp_path / "c") == tree(world / "clean")
    if workers:  # in other processes slow requests are made twice
        return
    # One listing, one reading for the plan, one for the work: each photograph is one request.
    assert_asked(bucket, 1, 80)


def test_bad_photographs_are_quarantined_in_the_same_words(
    world: Path, tmp_path: Path, bucket: ObjectServer
) -> None:
    images = Path(shutil.copytree(world / "images", tmp_path / "images"))
    (images / "3.png").write_bytes(b"")
    (images / "9.png").write_bytes((images / "9.png").read_bytes()[:80])
    (images / "17.png").unlink()
    (images / "21.png").write_bytes(b"hello")
    root = upload(images, ADDRESS)
    run(tmp_path / "ours", root)
    fake_run.run(tmp_path / "theirs", images, count=40)
    assert tree(tmp_path / "ours") == tree(tmp_path / "theirs")
    assert reasons(tmp_path / "ours") == {
        3: "empty", 9: "truncated", 17: "missing", 21: "not-an-image",
    }  # fmt: skip


def test_what_was_hashed_once_is_not_read_again_for_a_plan(
    root: Path, tmp_path: Path, bucket: ObjectServer, store: Store
) -> None:
    run(tmp_path / "a" / "c", root, shards=range(1))
    bucket.set()
    run(tmp_path / "b" / "c", root, shards=range(1))
    first = Plan.load(tmp_path / "b" / "c")
    assert_asked(bucket, 1, len(first.shard(0)))
    # One of another version is.
    store.replace("40.png", b"other bytes")
    bucket.set()
    run(tmp_path / "c" / "c", root, shards=range(1))
    assert_asked(bucket, 1, 1 + len(first.shard(0)))
    changed = Plan.load(tmp_path / "c" / "c").images
    assert [a.image_id for a, b in zip(first.images, changed, strict=True) if a != b] == [40]


def test_a_plan_that_was_interrupted_goes_on_where_it_was(
    root: Path, tmp_path: Path, bucket: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("seen_photos", "stored_photos"):
        monkeypatch.setattr(f"svp.pipeline.datasets.{module}.CHUNK", 10)
    asked = []

    def stop() -> None:
        asked.append(1)
        if len(asked) == 25:
            raise KeyboardInterrupt

    records = [ImageRecord(number, f"{number}.png", 12, SIDE) for number in range(1, 41)]
    content = Content(records, "train", listed=listing(root))
    with pytest.raises(KeyboardInterrupt):
        planner.build_plan(content, RECIPE, root, stop=stop)
    bucket.set()
    assert len(planner.build_plan(content, RECIPE, root).images) == 40
    assert_asked(bucket, 0, 20)


def test_the_progress_of_a_long_plan_is_told(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("svp.pipeline.datasets.stored_photos.TELL_S", 0.0)
    monkeypatch.setattr("svp.pipeline.datasets.seen_photos.CHUNK", 15)
    run(tmp_path / "c", root, shards=range(1))
    assert f"{ADDRESS}: 40 objects listed" in logged.messages
    assert f"{ADDRESS}: 30 of 40 photographs hashed" in logged.messages


def test_passing_faults_of_the_service_are_not_noticed(
    world: Path, root: Path, tmp_path: Path, bucket: ObjectServer
) -> None:
    bucket.set(error_rate=0.2, cut_rate=0.2)
    report = run(tmp_path / "c", root)
    assert report.failures == {} and tree(tmp_path / "c") == tree(world / "clean")


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "expired": ({"refuse": "ExpiredToken"}, "the credentials have expired.*renew them"),
    "refused": ({"refuse": "AccessDenied"}, "access refused"),
    "down": ({"error_rate": 1.0}, "the service failed .*run the same command again"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_service_that_fails_in_a_run_quarantines_nothing(
    world: Path, root: Path, tmp_path: Path, bucket: ObjectServer, fault: str
) -> None:
    knobs, said = FAULTS[fault]

    def spoil(event: Event) -> None:
        if isinstance(event, Done) and event.shard == 2:
            bucket.set(**knobs)

    with pytest.raises(CacheError, match=rf"{ADDRESS}/\d+.png: {said}"):
        run_with(tmp_path / "c", root, spoil)
    bucket.set()
    report = run(tmp_path / "c", root)
    assert report.failures == {} and report.computed == 40 - 18
    assert tree(tmp_path / "c") == tree(world / "clean")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_service_that_fails_while_planning_leaves_no_plan(
    root: Path, tmp_path: Path, bucket: ObjectServer, fault: str
) -> None:
    knobs, said = FAULTS[fault]
    records = [ImageRecord(number, f"{number}.png", 12, SIDE) for number in range(1, 41)]
    content = Content(records, "train", listed=listing(root))
    bucket.set(**knobs)
    with pytest.raises(CacheError, match=rf"{ADDRESS}/\d+.png: {said}"):
        precompute.precompute(
            content, RECIPE, LocalPaths(root), tmp_path / "c", RunOptions(workers=0), quiet=True
        )
    assert not (tmp_path / "c" / "plan.json").exists()


def test_an_object_that_was_replaced_since_the_plan_is_changed(
    world: Path, root: Path, tmp_path: Path, store: Store
) -> None:
    plain = store.read("20.png", 1 << 20)
    other = store.read("21.png", 1 << 20)

    def replace(event: Event) -> None:
        if isinstance(event, Done) and event.shard == 0:
            store.replace("20.png", other)
            store.replace("22.png", plain[: len(plain) // 2])
            store.replace("23.png", plain[:-1] + b"?" + bytes(1000))
            store.replace("24.png", b"")
            store.delete("25.png")

    report = run_with(tmp_path / "c", root, replace)
    assert report.complete
    assert reasons(tmp_path / "c") == {
        20: "changed", 22: "changed", 23: "changed", 24: "changed", 25: "missing",
    }  # fmt: skip
    upload(world / "images", ADDRESS)
    run(tmp_path / "c", root, retry_quarantined=True)
    assert tree(tmp_path / "c") == tree(world / "clean")


def test_a_bucket_that_is_deleted_in_a_run_quarantines_nothing(
    root: Path, tmp_path: Path, bucket: ObjectServer
) -> None:
    def spoil(event: Event) -> None:
        if isinstance(event, Done) and event.shard == 2:
            bucket.set(refuse="NoSuchBucket")

    with pytest.raises(CacheError, match="no such bucket: was it deleted"):
        run_with(tmp_path / "c", root, spoil)
    bucket.set()
    assert run(tmp_path / "c", root).failures == {}
