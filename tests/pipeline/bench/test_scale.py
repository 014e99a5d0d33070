"""The plan past one machine: its arithmetic, and that it is measured on caches that open."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from svp.cli import main
from svp.pipeline.bench.scale import (
    FAILURES_PER_GPU_HOUR,
    FORMS,
    PART,
    SETS,
    form_of,
    run,
    simulate,
)
from svp.pipeline.bench.scale_probe import inodes, opening, opening_whole, scanning
from svp.pipeline.cache import CacheReader
from svp.pipeline.precompute.cost_model import estimate, makespan
from svp.pipeline.precompute.options import Flags, resolve
from svp.pipeline.precompute.planner import sized_plan
from svp.pipeline.precompute.purpose import stores
from svp.pipeline.recipe import Recipe


@given(st.integers(0, 2000), st.integers(1, 70), st.integers(1, 9))
def test_makespan_is_the_greedy_one(images: int, shard: int, workers: int) -> None:
    load = [0] * workers
    for start in range(0, images, shard):
        load[load.index(min(load))] += min(shard, images - start)
    assert makespan(images, shard, workers) == max(load)


def test_a_billion_images_are_priced_at_once() -> None:
    """Every term of the price is closed: a loop over 15.6 million shards would not end in time."""
    found = estimate(sized_plan(Recipe()), 10**9, device="a100", workers=1024)
    assert found.shards == 15_625_000
    assert found.wall_s == pytest.approx(found.worker_hours * 3600 / 1024, rel=1e-3)


def test_failures_are_those_of_the_published_rate() -> None:
    found = simulate(gpu_hours=16_384 * 54 * 24, shard_s=600, gpus=16_384)
    assert found.days == pytest.approx(54)
    assert found.per_day == pytest.approx(419 / 54)
    assert found.total == pytest.approx(419, rel=0.03)
    assert found.lost_s == pytest.approx(8 * (300 + 90), rel=0.03)
    assert found.lost_s < found.worst_s < 8 * (600 + 90)
    assert found.share == pytest.approx(FAILURES_PER_GPU_HOUR * found.lost_s / 3600, rel=0.03)


def test_a_small_run_loses_only_its_own_gpus() -> None:
    found = simulate(gpu_hours=100, shard_s=60, gpus=2, node=8, restart_s=0)
    assert found.lost_s == pytest.approx(2 * 30, rel=0.05)


def test_the_measured_caches_are_real(tmp_path: Path) -> None:
    many = opening(tmp_path / "many", 130, 1, reps=1)
    reader = CacheReader(tmp_path / "many")
    assert (len(reader), reader.complete) == (130, True)
    assert (many.images, many.shards) == (130, 130)
    lists = (path for path in (tmp_path / "many/images").rglob("*") if path.is_file())
    plan = (tmp_path / "many/plan.json").stat().st_size
    assert many.plan_bytes == plan + sum(path.stat().st_size for path in lists)
    scan = scanning(tmp_path / "scan", shards=5, reps=1)
    files, folders = inodes(tmp_path / "scan")
    # One file per array, a manifest per layer and the log; the rest is the cache's, not a shard's.
    assert scan.files == len(reader.plan.arrays) + len(reader.plan.layers) + 1
    assert 5 * scan.files < files < 5 * scan.files + 60
    assert 5 * scan.folders < folders < 5 * scan.folders + 80


def test_the_report_adds_up() -> None:
    report = run(Recipe(), probe=1000)
    assert [one.name for one in report.sets] == list(SETS)
    for one in report.sets:
        images = SETS[one.name]
        assert one.caches == -(-images // PART)
        assert one.estimate.shards == -(-images // 64)
        assert one.all_open_s == pytest.approx(
            images * report.per_image_s + one.estimate.shards * report.per_shard_s
        )
        assert one.failures.days * 24 * one.failures.gpus == pytest.approx(
            one.estimate.worker_hours
        )
    assert [form.options for form in report.forms] == list(FORMS)
    assert report.targets[0].name == "open a cache of 1,000 shards"
    assert "SA-1B: 11,185,362 images in 12 caches" in "\n".join(report.lines())
    assert report.to_json()["sets"][1]["inodes"] > 15_625_000 * 13


@pytest.mark.parametrize("options", FORMS)
def test_a_form_takes_what_its_options_are_priced_at(options: str) -> None:
    plan = sized_plan(resolve("tiny", None, Flags(), (), Path(), stores("train", "svp"))[0])
    form, exact = form_of(options, plan), form_of("float16", plan)
    words = [] if options == "float16" else options.split()
    for images, wanted in ((PART, form.million), (SETS["SA-1B"], form.sets["SA-1B"])):
        asked = [
            "--size",
            "tiny",
            "--for",
            "train",
            "--price",
            "a100",
            str(images),
            "--json",
            *words,
        ]
        priced = json.loads(CliRunner().invoke(main, ["precompute", *asked]).output)
        assert priced["total_bytes"] == wanted
    assert form.line(exact).startswith(f"  {options}: features ")
    if options.startswith("--thin"):  # 40 means for 256 patches, 65 bytes of index and checksum
        assert exact.features / form.features == pytest.approx(256 / 40, rel=0.01)


def test_one_whole_cache_is_opened_in_a_process_of_its_own(tmp_path: Path) -> None:
    found = opening_whole(tmp_path / "c", 30_000)
    reader = CacheReader(tmp_path / "c")
    assert (len(reader), reader.complete, found.images) == (30_000, True, 30_000)
    assert reader.plan.images[12_345].path == "sa_000001/sa_00012345.jpg"
    assert 0 < found.cpu_s and 0 <= found.resident < found.peak
    assert "30,000 images opens in" in found.line()
