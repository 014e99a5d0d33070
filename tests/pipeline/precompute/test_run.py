"""`precompute` as a function: second runs, other recipes, bad images and their repair."""

import json
import platform
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import svp
from support import fake_run
from support.fake_run import RECIPE, write_image
from support.kill_trials import tree
from svp.pipeline.cache import manifest
from svp.pipeline.cache.manifest import Committed, read_committed
from svp.pipeline.cache.manifest_snapshot import load_snapshot
from svp.pipeline.cache.plan import Plan
from svp.pipeline.cache.reader import CacheReader
from svp.pipeline.cache.verify import uncommit_damaged
from svp.pipeline.errors import (
    CacheError,
    ConfigError,
    Interrupted,
    MissingError,
    PlanMismatchError,
)
from svp.pipeline.executors.base import Event
from svp.pipeline.executors.worker import device_name
from svp.pipeline.precompute import run
from svp.pipeline.precompute.run import RunOptions
from svp.pipeline.store import FolderStore, Read, open_store


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    fake_run.install(monkeypatch)
    yield


@pytest.fixture
def images(world: Path, tmp_path: Path) -> Path:
    """A copy of the world's images, to be spoiled."""
    return Path(shutil.copytree(world / "images", tmp_path / "images"))


def options(**given: object) -> RunOptions:
    return RunOptions(workers=0, **given)  # type: ignore[arg-type]


def test_second_run_does_nothing(world: Path, tmp_path: Path) -> None:
    cache = Path(shutil.copytree(world / "clean", tmp_path / "c"))
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
    report = fake_run.run(cache, world / "images", options())
    assert (report.computed, report.good, report.complete) == (0, 40, True)
    after = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
    changed = {path.name for path in after if before.get(path) != after[path]}
    assert changed <= {"failures.jsonl"}


def test_executors_and_worker_counts_give_the_same_tree(world: Path, tmp_path: Path) -> None:
    fake_run.run(tmp_path / "c", world / "images", options())
    assert tree(tmp_path / "c") == tree(world / "clean")


def test_limit_is_another_cache(world: Path, tmp_path: Path) -> None:
    report = fake_run.run(tmp_path / "c", world / "images", options(limit=7))
    assert (report.images, report.good) == (7, 7)
    with pytest.raises(PlanMismatchError, match="33 added"):
        fake_run.run(tmp_path / "c", world / "images", options())
    with pytest.raises(ConfigError, match="limit=0"):
        fake_run.run(tmp_path / "d", world / "images", options(limit=0))


def test_the_log_of_a_shard_says_what_made_it(world: Path) -> None:
    plan = Plan.load(world / "clean")
    for shard in range(plan.num_shards):
        log = json.loads((world / "clean" / "logs" / f"{shard}.json").read_bytes())
        assert log["libraries"] == plan.recipe.libraries and "pillow" in log["libraries"]
        assert (log["svp"], log["host"]) == (svp.__version__, platform.node())
        assert log["device"] == device_name() != ""


def test_other_recipe_is_refused_with_both_digests(world: Path, tmp_path: Path) -> None:
    cache = Path(shutil.copytree(world / "clean", tmp_path / "c"))
    before = tree(cache)
    other = RECIPE.model_copy(update={"batch": 2})
    with pytest.raises(PlanMismatchError, match=r"recipe.batch: 4 -> 2") as error:
        fake_run.run(cache, world / "images", options(), recipe=other)
    assert Plan.load(cache).id[:12] in str(error.value)
    assert "this run makes" in str(error.value)
    assert "--retry-quarantined" not in str(error.value)
    assert tree(cache) == before


def test_without_resume_a_cache_is_left_alone(world: Path) -> None:
    with pytest.raises(CacheError, match="is a cache already: add --resume"):
        fake_run.run(world / "clean", world / "images", options(resume=False))


def test_foreign_folder_is_left_alone(world: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(CacheError, match="not empty and no cache"):
        fake_run.run(tmp_path, world / "images", options())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.txt"]


def test_bad_images_are_quarantined_and_listed_once(images: Path, tmp_path: Path) -> None:
    (images / "3.png").write_bytes(b"")
    (images / "9.png").write_bytes((images / "9.png").read_bytes()[:80])
    (images / "17.png").unlink()
    (images / "21.png").write_bytes(b"hello")
    told: dict[str, object] = {"faults": {"30": "refuse", "31": "nonfinite", "32": "raise"}}
    report = fake_run.run(tmp_path / "c", images, options(max_failures=6), told=told, count=40)
    assert report.complete
    assert report.failed, "7 failures, 6 allowed"
    assert (report.computed, report.good) == (40, 33)
    lines = (tmp_path / "c/logs/failures.jsonl").read_text().splitlines()
    found = {line["image_id"]: line["reason"] for line in map(json.loads, lines)}
    assert len(lines) == 7
    assert found == {
        3: "empty",
        9: "truncated",
        17: "missing",
        21: "not-an-image",
        30: "too-odd",
        31: "non-finite",
        32: "worker_error",
    }
    for index in (tmp_path / "c").glob("*/*/index.json"):
        assert str(images) not in index.read_text(), "no trace of the machine"
    again = fake_run.run(tmp_path / "c", images, options(max_failures=7), count=40)
    assert (again.computed, again.failed) == (0, False)


def test_a_bad_image_does_not_change_its_neighbours(
    world: Path, images: Path, tmp_path: Path
) -> None:
    (images / "8.png").unlink()
    fake_run.run(tmp_path / "c", images, options(), count=40)
    good, bad = CacheReader(world / "clean"), CacheReader(tmp_path / "c")
    for row in (6, 8, 9):
        assert good.features(row).tobytes() == bad.features(row).tobytes()


def test_retry_heals_to_the_bytes_of_a_clean_run(world: Path, images: Path, tmp_path: Path) -> None:
    cache = tmp_path / "c"
    (images / "3.png").write_bytes(b"")
    (images / "17.png").unlink()
    fake_run.run(cache, images, options(), count=40)
    write_image(images, 3)
    write_image(images, 17)
    with pytest.raises(PlanMismatchError, match=r"2 changed \(id 3, 17\).*--retry-quarantined"):
        fake_run.run(cache, images, options())
    report = fake_run.run(cache, images, options(retry_quarantined=True))
    assert report.computed == 12, "only the two shards with quarantined images"
    assert tree(cache) == tree(world / "clean")


def test_retry_without_a_repair_keeps_the_verdict(
    world: Path, images: Path, tmp_path: Path
) -> None:
    (images / "3.png").write_bytes(b"")
    fake_run.run(tmp_path / "c", images, options())
    before = tree(tmp_path / "c")
    report = fake_run.run(tmp_path / "c", images, options(retry_quarantined=True))
    assert report.computed == 6
    assert tree(tmp_path / "c") == before


def test_retry_after_a_fault_of_the_run(world: Path, tmp_path: Path) -> None:
    told: dict[str, object] = {"faults": {"32": "raise"}}
    fake_run.run(tmp_path / "c", world / "images", options(), told=told)
    fake_run.run(tmp_path / "c", world / "images", options(retry_quarantined=True))
    assert tree(tmp_path / "c") == tree(world / "clean")


def test_retry_does_not_accept_a_change_of_a_good_image(images: Path, tmp_path: Path) -> None:
    cache = tmp_path / "c"
    (images / "3.png").write_bytes(b"")
    fake_run.run(cache, images, options())
    before = tree(cache)
    (images / "20.png").write_bytes((images / "21.png").read_bytes() + b"\0")
    with pytest.raises(PlanMismatchError, match="image 20 changed, but it is in the cache"):
        fake_run.run(cache, images, options(retry_quarantined=True))
    assert tree(cache) == before


def test_retry_interrupted_half_way(
    world: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some manifests name the new plan, plan.json the old one: the next retry finishes it."""
    cache = tmp_path / "c"
    (images / "3.png").write_bytes(b"")
    fake_run.run(cache, images, options())
    write_image(images, 3)
    written: list[str] = []
    real = FolderStore.replace

    def fail_third(store: FolderStore, key: str, data: bytes, *args: Any, **names: Any) -> str:
        if "/manifest/" in key:
            if len(written) == 2:
                raise KeyboardInterrupt
            written.append(key)
        return real(store, key, data, *args, **names)

    monkeypatch.setattr(FolderStore, "replace", fail_third)
    with pytest.raises(KeyboardInterrupt):
        fake_run.run(cache, images, options(retry_quarantined=True))
    monkeypatch.setattr(FolderStore, "replace", real)
    report = fake_run.run(cache, images, options(retry_quarantined=True))
    assert report.computed == 6
    assert tree(cache) == tree(world / "clean")


def test_image_changed_between_plan_and_run(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same size, other bytes: a resumed run trusts the size, its worker does not."""
    cache = tmp_path / "c"
    fake_run.run(cache, images, options(shards=range(1)))
    data = bytearray((images / "20.png").read_bytes())
    data[-20] ^= 1
    (images / "20.png").write_bytes(data)
    report = fake_run.run(cache, images, options())
    assert report.failures == {"changed": 1}


def test_shards_of_a_static_split(world: Path, tmp_path: Path) -> None:
    first = fake_run.run(tmp_path / "c", world / "images", options(shards=range(3)))
    assert (first.computed, first.complete) == (18, False)
    second = fake_run.run(tmp_path / "c", world / "images", options(shards=range(3, 99)))
    assert (second.computed, second.complete) == (22, True)
    assert tree(tmp_path / "c") == tree(world / "clean")


def test_no_image_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(MissingError, match="none of the 5 images can be read.*--images"):
        fake_run.run(tmp_path / "c", tmp_path / "images", options(), count=5)
    with pytest.raises(ConfigError, match="no image"):
        fake_run.run(tmp_path / "c", tmp_path / "images", options())
    assert not (tmp_path / "c").exists()


def test_disk_is_checked_before_the_start(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(CacheError, match="needs about 0.00 GB, 0.00 GB are free"):
        fake_run.run(tmp_path / "c", world / "images", options())


def test_each_manifest_is_read_once_in_a_run(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hundreds of shards: what is missing, the index and the report share what was read."""
    read: Counter[str] = Counter()
    one, many = FolderStore.read_tagged, FolderStore.read_many

    def note(key: str) -> None:
        if "/manifest/" in key:
            read[f"{key.split('/')[0]}/{key.rsplit('/')[-1]}"] += 1

    def read_one(store: FolderStore, key: str, limit: int) -> tuple[bytes, str]:
        note(key)
        return one(store, key, limit)

    def read_many(store: FolderStore, reads: Sequence[Read]) -> None:
        for wanted in reads:
            note(wanted.key)
        many(store, reads)

    monkeypatch.setattr(FolderStore, "read_tagged", read_one)
    monkeypatch.setattr(FolderStore, "read_many", read_many)

    kinds = ("superpixels", "cover", "features")
    once = {f"{kind}/{shard}.json": 1 for kind in kinds for shard in range(7)}

    fake_run.run(tmp_path / "c", world / "images", options())
    assert read == once, "after a build"
    read.clear()
    fake_run.run(tmp_path / "c", world / "images", options())
    assert read == once, "when nothing is missing"
    read.clear()
    next((tmp_path / "c" / "cover").glob("*/cover/c/2/0/0")).unlink()
    fake_run.run(tmp_path / "c", world / "images", options())
    assert read == once | {"cover/2.json": 3, "superpixels/2.json": 2}, (
        "looked at before it is taken back, and made anew from stored superpixels"
    )


@pytest.mark.parametrize(
    ("end", "share", "copied"),
    [
        (Interrupted(15, "stopped"), 0, 5),
        (KeyboardInterrupt(), 0, 4),
        (KeyboardInterrupt(), 1e9, 2),
    ],
)
def test_a_run_that_ends_early_leaves_copies_of_its_manifests(
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    end: BaseException,
    share: float,
    copied: int,
) -> None:
    """After a signal all, after a kill those up to the last look, which slow looks make rarer."""
    monkeypatch.setattr(manifest, "FEW", 0)
    monkeypatch.setattr(run, "READ_SHARDS", 2)
    monkeypatch.setattr(run, "SHARE", share)
    whole = run.RunLog.update

    def update(log: run.RunLog, event: Event) -> None:
        whole(log, event)
        if len([*(tmp_path / "c").glob("superpixels/*/manifest/*.json")]) == 5:
            raise end

    with monkeypatch.context() as patch, pytest.raises(type(end)):
        patch.setattr(run.RunLog, "update", update)
        fake_run.run(tmp_path / "c", world / "images", options())
    plan, store = Plan.load(tmp_path / "c"), open_store(tmp_path / "c")
    kept = {len(load_snapshot(store, layer, 0)) for layer in plan.layers}
    assert kept == {copied}
    report = fake_run.run(tmp_path / "c", world / "images", options())
    assert report.complete and tree(tmp_path / "c") == tree(world / "clean")


def test_a_retry_is_not_answered_from_the_cache_beside(images: Path, tmp_path: Path) -> None:
    """Its worker died on an image once; a cache beside it has that verdict too."""
    told: dict[str, object] = {"faults": {"9": "refuse"}}
    fake_run.run(tmp_path / "a", images, options(), told=told)
    fake_run.run(tmp_path / "b", images, options(), told=told)
    report = fake_run.run(tmp_path / "a", images, options(retry_quarantined=True))
    assert report.failures == {} and report.good == report.images


def test_what_a_run_beside_this_one_commits_stays(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between looking for what is missing and un-committing what is damaged, shards may be made."""
    cache = tmp_path / "c"
    shutil.copytree(world / "clean", cache)
    plan = Plan.load(cache)
    seen, fake = read_committed(cache, plan), {0: plan.layers}
    before = tree(cache)
    uncommit_damaged(cache, seen, fake)
    assert tree(cache) == before
    next(cache.glob("features/*/dino/c/0/0/0")).unlink()
    uncommit_damaged(cache, Committed(), fake)
    assert len(tree(cache)) == len(before) - 1, "it had no manifest when the run looked"
    uncommit_damaged(cache, seen, fake)
    gone = before.keys() - tree(cache).keys()
    assert {Path(name).name for name in gone} == {"0", "0.json", "index.json", "COMPLETE"}
    assert all(name.startswith("features/") for name in gone)
