"""The stage with the shipped models: what the cache holds is what the models say, live."""

import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from svp.pipeline import plugins
from svp.pipeline.bench.memory import MemoryReport
from svp.pipeline.cache import create_cache
from svp.pipeline.cache.plan import PlanImage
from svp.pipeline.cache.reader import CacheReader
from svp.pipeline.datasets import open_dataset
from svp.pipeline.datasets.images import read_image
from svp.pipeline.datasets.photo_files import Photo
from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.encoders import build_encoder
from svp.pipeline.errors import ImageError, MissingError
from svp.pipeline.executors import Event, ExecutorOptions, Job
from svp.pipeline.executors.base import BatchDone, JobReport, Ready, Tick
from svp.pipeline.masks.encoder_view import derive
from svp.pipeline.precompute import calibration, launch, shard_task
from svp.pipeline.precompute.calibration import calibrate
from svp.pipeline.precompute.planner import Content, build_plan
from svp.pipeline.precompute.run import RunOptions, precompute
from svp.pipeline.precompute.shard_batch import Batch
from svp.pipeline.precompute.shard_task import ShardTask, quarantine
from svp.pipeline.precompute.source_images import read_verified
from svp.pipeline.recipe import GridConfig, Recipe, SuperpixelConfig
from svp.pipeline.records import ImageRecord, LocalPaths
from svp.pipeline.store import open_folder
from svp.pipeline.superpixels.external import find_method, method_version
from svp.pipeline.superpixels.generator import build_generator

RECIPE = Recipe(
    superpixels=SuperpixelConfig(preset="custom", grid=GridConfig(points_per_side=3)),
    store_sam_embeddings=True,
    batch=2,
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Content, LocalPaths]:
    folder = tmp_path_factory.mktemp("scenes") / "s"
    source = open_dataset(write_scenes(folder, images=10, seed=5))
    return Content(source.images[:3]), LocalPaths(source.image_root)


@pytest.fixture(scope="module")
def cache(scenes: tuple[Content, LocalPaths], tmp_path_factory: pytest.TempPathFactory) -> Path:
    content, where = scenes
    out = tmp_path_factory.mktemp("cache") / "c"
    options = RunOptions(workers=0)
    told: list[object] = []

    def listen(event: Event) -> None:
        if isinstance(event, BatchDone):
            told.append((event.shard, event.report.images))

    report = precompute(content, RECIPE, where, out, options, on_event=listen, quiet=True)
    assert report.good == report.computed == 3
    assert told == [(0, 2), (0, 1)], "each batch is told of when it is done"
    assert "progress" not in (out / "logs/events.jsonl").read_text()
    return out


def test_rows_are_what_the_models_say(scenes: tuple[Content, LocalPaths], cache: Path) -> None:
    """T15: one image at a time here, batches of two with a padded last one there."""
    content, where = scenes
    source = build_generator(RECIPE.superpixels, where)
    encoder = build_encoder(RECIPE.features, where, "cpu")
    reader = CacheReader(cache)
    for row, record in enumerate(content.images):
        pixels = read_image(where.images / record.path, record)
        (found,), embeddings = source.generate_batch([pixels], embeddings=True)
        assert embeddings is not None
        stored = reader.superpixels(row)
        assert stored.rles == found.rles
        assert stored.level.tolist() == found.level.tolist()
        live = encoder.encode([pixels]).patches[0]
        np.testing.assert_allclose(reader.features(row), live, rtol=2e-3, atol=2e-3)
        cover, masks = derive(found, encoder.view, encoder.grid, RECIPE.sspe.budget)
        assert np.array_equal(reader.cover(row)[: len(found)], cover)
        assert np.array_equal(reader.sspe_masks(row)[: len(found)], masks)
        np.testing.assert_allclose(reader.sam(row), embeddings[0], rtol=2e-3, atol=2e-3)


def test_probe_computes_and_stores_nothing(scenes: tuple[Content, LocalPaths], cache: Path) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in cache.rglob("*"))
    steps = ShardTask(open_folder(cache), scenes[1]).open()(Job(0, rows=(1, 3)))
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert end.value.value.images == 2
    assert sorted((path, path.stat().st_mtime_ns) for path in cache.rglob("*")) == before


def test_the_next_batch_is_read_while_the_models_are_busy_and_no_further_one(
    scenes: tuple[Content, LocalPaths], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, where = scenes
    create_cache(
        tmp_path / "c", build_plan(content, RECIPE.model_copy(update={"batch": 1}), where.images)
    )
    read: list[int] = []
    seen: list[int] = []
    models = shard_task.Stage._models

    def note(root: Path, image: PlanImage, photo: Photo | None = None) -> shard_task.Pixels:
        read.append(image.image_id)
        return read_verified(root, image, photo)

    def busy(self: shard_task.Stage, batch: Batch) -> Batch:
        until = time.monotonic() + 30
        while len(read) < min(len(seen) + 2, 3) and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.05)  # a second one ahead would be read by now
        seen.append(len(read))
        return models(self, batch)

    monkeypatch.setattr(shard_task, "read_verified", note)
    monkeypatch.setattr(shard_task.Stage, "_models", busy)
    reports = [*ShardTask(open_folder(tmp_path / "c"), where).open()(Job(0))]
    assert seen == [2, 3, 3]
    assert [one.images for one in reports] == [1, 1, 1]
    assert read == [record.image_id for record in content.images]


def test_a_worker_of_another_environment_gets_the_plug_ins(
    scenes: tuple[Content, LocalPaths], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task carries the files, as it is pickled for a worker of any executor."""
    content, where = scenes
    monkeypatch.delenv(plugins.VARIABLE, raising=False)
    (tmp_path / "whole.py").write_text(
        "import numpy as np\nfrom svp.pipeline.superpixels.external import superpixels\n\n"
        "@superpixels('whole')\ndef whole(image):\n    return np.ones(image.shape[:2], int)\n"
    )
    with plugins.plugins([str(tmp_path / "whole.py")]):
        made = method_version(find_method("whole"))
        pixels = SuperpixelConfig(source="whole", made=made)
        create_cache(tmp_path / "c", build_plan(content, Recipe(superpixels=pixels), where.images))
        sent = pickle.dumps(ShardTask(open_folder(tmp_path / "c"), where))
    code = "import pickle, sys; pickle.loads(sys.stdin.buffer.read()).open()"
    subprocess.run([sys.executable, "-c", code], input=sent, check=True)
    (tmp_path / "whole.py").unlink()
    said = subprocess.run(
        [sys.executable, "-c", code], input=sent, capture_output=True, check=False
    )
    assert b"whole.py (or SVP_PLUGIN): is not a file" in said.stderr


def test_plan_knows_the_shapes_without_weights(scenes: tuple[Content, LocalPaths]) -> None:
    content, where = scenes
    plan = build_plan(content, RECIPE, where.images)
    encoder = build_encoder(RECIPE.features, where, "cpu")
    assert (plan.grid, plan.channels) == (encoder.grid, encoder.dim)
    assert plan.recipe.libraries["torch"]
    assert all(len(image.xxh3) == 16 and image.bytes > 0 for image in plan.images)


def test_calibration_measures_every_stage(scenes: tuple[Content, LocalPaths]) -> None:
    content, where = scenes
    seen = calibrate(content, RECIPE, where, ExecutorOptions(), images=2, workers=1)
    assert seen is not None
    assert set(seen.stage_s) == {"read", "superpixels", "features", "derive", "write"}
    # Two images of one batch: stages one after the other, and less than a sum of them twice.
    assert max(seen.stage_s.values()) < seen.image_s < 2 * sum(seen.stage_s.values())
    assert seen.images == 2
    assert seen.peak_rss > 10**8
    assert 0 < seen.bytes["rle"] < 10_000


@pytest.mark.parametrize("root", ["/data/a", "/somewhere/else entirely/x"])
def test_quarantine_text_does_not_tell_where_images_lie(root: str) -> None:
    image = PlanImage(7, "b/c.jpg", 2, 2, 5, "0" * 16)
    error = ImageError("empty", f"image {root}/b/c.jpg: empty: {root}/b/c.jpg has no bytes")
    entry = quarantine(image, error, Path(root))
    assert (entry.reason, entry.detail) == ("empty", "b/c.jpg has no bytes")


def test_memory_report_tells_growth() -> None:
    assert MemoryReport((1, 9), (100, 104), (50, 50)).exit_code == 0
    assert MemoryReport((1, 9), (100, 106), (50, 50)).exit_code == 1


def test_unknown_size_is_no_size() -> None:
    """A record without a size (0x0) is one nobody could examine; it is planned all the same."""
    record = ImageRecord(1, "gone.png", 0, 0)
    with pytest.raises(MissingError, match="none of the 1 image"):
        build_plan(Content([record]), RECIPE, Path("/nonexistent"))


def test_measuring_ends_in_time_with_what_it_has(
    scenes: tuple[Content, LocalPaths],
    monkeypatch: pytest.MonkeyPatch,
    logged: pytest.LogCaptureFixture,
) -> None:
    """A slow machine: told of two batches, the second ends the time; the first only warmed up."""
    content, where = scenes
    told: list[float] = []  # seconds of each batch

    class Slow:
        def __init__(self, options: ExecutorOptions) -> None: ...

        def events(self, task: object, shards: object) -> Iterator[Event]:
            yield Ready(worker=0)
            for seconds in told:
                clock.now += seconds
                yield BatchDone(
                    0, 0, report=JobReport(2, {}, 0, 0, {"read": clock.now + 1}, clock.now, 7)
                )
            clock.now += 99
            yield Tick()

    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(calibration, "LocalExecutor", Slow)
    monkeypatch.setattr(calibration, "time", clock)
    for batches, image_s in (([8.0, 3.0], 1.5), ([8.0], 4.0), ([], None)):
        clock.now, told[:] = 0.0, batches
        options = ExecutorOptions(workers=1)
        seen = calibrate(content, RECIPE, where, options, bound_s=15)
        if image_s is None:
            assert seen is None
        else:
            assert seen and seen.image_s == image_s and (seen.images, seen.cut) == (2, True)
            assert list(seen.stage_s) == ["read"]
    assert logged.messages[0] == "measuring up to 3 images on 1 worker, for at most 15 s"
    assert "measuring: 2 images after 8 s" in logged.messages


@pytest.mark.parametrize(("opening", "left"), [(0, 12), (10, 5), (60, 4)])
def test_a_dry_run_that_measured_nothing_computes_its_price(
    opening: int,
    left: int,
    scenes: tuple[Content, LocalPaths],
    monkeypatch: pytest.MonkeyPatch,
    logged: pytest.LogCaptureFixture,
) -> None:
    """What opening the data took is no longer there for measuring: the answer is due in 20 s."""
    bounds: list[float] = []
    monkeypatch.setattr(launch, "calibrate", lambda *args, bound_s, **rest: bounds.append(bound_s))
    root = scenes[1].images.parent
    request = launch.Request(dataset=str(root), split="train", out=None)
    opened = launch.open_request(request)
    clock = SimpleNamespace(monotonic=lambda: opened.began + opening)
    monkeypatch.setattr(launch, "time", clock)
    found = launch.dry_run(request, opened)
    assert bounds == [left]
    assert found.device == "CPU worker" and found.worker_hours > 0
    assert any("float32 product here" in line for line in found.basis)
    assert logged.messages == [f"not one image was done in {left} s: the price is computed instead"]
