"""`svp doctor`: every part reports, nothing raises, the exit code says how bad it is."""

import json
from pathlib import Path

import numpy as np
import pytest

from svp.pipeline.cache.create import create_cache
from svp.pipeline.cache.index import finalize
from svp.pipeline.cache.manifest import read_committed
from svp.pipeline.cache.plan import Plan, PlanImage
from svp.pipeline.cache.writer import write_shard
from svp.pipeline.doctor import report as reports
from svp.pipeline.doctor.report import DoctorReport, Finding, doctor
from svp.pipeline.doctor.weight_search import Need
from svp.pipeline.masks import rle
from svp.pipeline.masks.encoder_view import View, derive
from svp.pipeline.recipe import FeatureConfig, Recipe, SuperpixelConfig
from svp.pipeline.records import ImageRow, Quarantined, Superpixels

EASY = Recipe(
    superpixels=SuperpixelConfig(source="slic"), features=FeatureConfig(weights="random:0")
)


def findings(report: DoctorReport, area: str) -> list[Finding]:
    return [finding for finding in report.findings if finding.area == area]


def test_all_areas_report() -> None:
    report = doctor(recipe=EASY)
    areas = list(dict.fromkeys(finding.area for finding in report.findings))
    assert areas == ["environment", "devices", "memory and disk", "weights"]
    names = {finding.name for finding in report.findings}
    assert {"python", "torch", "zarr", "cpu", "memory", "disk", "encoder tiny"} <= names
    assert report.exit_code == 0
    assert report.lines()[0] == "environment" and "python" in report.lines()[1]


def test_json_is_plain_and_complete() -> None:
    report = doctor(recipe=EASY)
    again = json.loads(json.dumps(report.to_json()))
    assert again["exit_code"] == 0
    assert len(again["findings"]) == len(report.findings)
    assert set(again["findings"][0]) == {"area", "name", "status", "detail"}


@pytest.mark.parametrize(
    ("need", "status", "code"),
    [
        (Need("m", True, "here"), "ok", 0),
        (Need("m", False, "nowhere"), "missing", 3),
        (Need("m", True, "cut off", "cut off"), "bad", 1),
    ],
)
def test_weights_decide_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, need: Need, status: str, code: int
) -> None:
    monkeypatch.setattr(reports, "needed_weights", lambda recipe, where: [need])
    report = doctor(recipe=EASY)
    (found,) = findings(report, "weights")
    assert (found.status, found.detail, report.exit_code) == (status, need.detail, code)


def test_broken_beats_missing() -> None:
    both = DoctorReport((Finding("a", "x", "missing", ""), Finding("a", "y", "bad", "")))
    assert both.exit_code == 1


def test_a_folder_that_is_no_cache(tmp_path: Path) -> None:
    report = doctor(cache=tmp_path)
    (found,) = findings(report, "cache")
    assert found.status == "missing" and "plan.json" in found.detail and report.exit_code == 3


def test_a_damaged_plan(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    report = doctor(cache=tmp_path)
    (found,) = findings(report, "cache")
    assert found.status == "bad" and report.exit_code == 1


def cache_of_four(folder: Path) -> Plan:
    """Four images in two shards; the last one is quarantined, the first one is a fallback."""
    images = tuple(PlanImage(i, f"{i}.png", 4, 4, 1, "0" * 16) for i in range(4))
    plan = Plan(EASY, images, grid=(2, 2), channels=3, sspe=(4, 4), shard_size=2, split="train")
    create_cache(folder, plan)
    for shard in (0, 1):
        commit(folder, plan, shard)
    finalize(folder, plan, read_committed(folder, plan))
    return plan


def commit(folder: Path, plan: Plan, shard: int) -> None:
    rows: list[ImageRow | Quarantined] = []
    for image in plan.shard(shard):
        whole = np.ones((4, 4), np.uint8)
        found = Superpixels(
            height=4,
            width=4,
            rles=(rle.encode(whole).counts,),
            level=np.full(1, 2, np.uint8),
            predicted_iou=np.ones(1, np.float32),
            stability=np.ones(1, np.float32),
            area=np.full(1, 16, np.int32),
            box=np.array([[0, 0, 3, 3]], np.int32),
            point=np.full((1, 2), 2, np.float32),
            crop=np.array([[0, 0, 4, 4]], np.int32),
            fallback=image.image_id == 0,
        )
        cover, bits = derive(found, View("squash", 4), (2, 2), 16)
        rows.append(ImageRow(image.image_id, found, np.ones((4, 3), np.float16), cover, bits))
    if shard == 1:
        rows[1] = Quarantined(3, "truncated", "the file ends early")
    write_shard(folder, plan, shard, rows, {})


def test_a_complete_cache(tmp_path: Path) -> None:
    plan = cache_of_four(tmp_path / "c")
    report = doctor(cache=tmp_path / "c")
    seen = {finding.name: finding for finding in findings(report, "cache")}
    assert plan.id[:12] in seen[str(tmp_path / "c")].detail
    assert seen["shards"].status == "ok" and seen["shards"].detail == "2 of 2 committed"
    assert seen["images"].status == "note"
    assert "4 planned, 3 good, 1 quarantined (truncated)" in seen["images"].detail
    assert seen["fallback"].detail.startswith("1 image")
    assert report.exit_code == 0


def test_a_complete_cache_that_lost_a_file_is_broken(tmp_path: Path) -> None:
    cache_of_four(tmp_path)
    next(tmp_path.glob("cover/*/cover/c/1/0/0")).unlink()
    report = doctor(cache=tmp_path)
    (shards,) = [f for f in findings(report, "cache") if f.name == "shards"]
    assert shards.status == "bad" and "missing or damaged [1]" in shards.detail
    assert report.exit_code == 1


def test_an_unfinished_cache_is_only_noted(tmp_path: Path) -> None:
    cache_of_four(tmp_path)
    for name in ("COMPLETE", "manifest/0.json"):
        next(tmp_path.glob(f"features/*/{name}")).unlink()
    report = doctor(cache=tmp_path)
    (shards,) = [f for f in findings(report, "cache") if f.name == "shards"]
    assert shards.status == "note" and "1 of 2 committed" in shards.detail
    assert report.exit_code == 0


def test_terminal_codes_in_names_are_escaped() -> None:
    line = Finding("a", "x\x1b[31m", "ok", "y\nz").line()
    assert "\x1b" not in line and "\n" not in line
