"""`svp data check`: each kind of damage is found, named, and decides the exit code."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from svp.pipeline.sources import check, counts


def test_a_good_set(worlds: Any, tmp_path: Path) -> None:
    worlds({"train": [1, 2], "val": [2, 3]}).write_refer(tmp_path / "refcoco")
    seen: list[tuple[int, int]] = []
    report = check(tmp_path, on_image=lambda done, total: seen.append((done, total)))
    assert report.usable and report.exit_code == 0 and report.errors == []
    groups = report.groups
    assert groups["counts"]["refcoco/unc train"] == {"images": 2, "refs": 4, "sentences": 8}
    assert groups["images"]["good"] == 3 and groups["images"]["layout"] == "images/"
    assert groups["masks"]["objects"] == 8
    assert groups["masks"]["overlapping parts (summing would give 2)"] == 8
    assert groups["text"] == {"expressions": 16, "refused": 0, "same text twice in an image": 5}
    assert groups["leaks"]["refcoco/unc train / refcoco/unc val"] == {"images": 1, "refs": 2}
    assert groups["sources"]["refcoco/instances.json"]["bytes"] > 100
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert json.loads(json.dumps(report.to_json()))["usable"] is True
    assert report.lines()[0].endswith(": usable")


def test_images_by_cause(world: Any, tmp_path: Path) -> None:
    folder = world.write_refer(tmp_path / "refcoco")
    paths = [tmp_path / "images" / image["file_name"] for image in world.images]
    paths[0].unlink()
    paths[1].write_bytes(b"")
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save(paths[2], quality=95)
    paths[2].write_bytes(paths[2].read_bytes()[:-200])
    Image.new("RGB", (12, 16)).save(paths[3])
    Image.new("RGB", (16, 12)).save(paths[4], "PNG")
    report = check(folder)
    group = report.groups["images"]
    causes = {key: group.get(key) for key in ("missing", "empty", "truncated", "wrong-size")}
    assert causes == {"missing": 1, "empty": 1, "truncated": 1, "wrong-size": 1}
    assert group["good"] == 1 and group["mislabelled (read by content)"] == 1
    assert report.exit_code == 1 and report.found == 4
    assert any("rotated by 90 degrees it would match" in line for line in report.errors)
    headers = check(folder, decode=False).groups["images"]
    assert "truncated" not in headers and headers["wrong-size"] == 1


def test_masks_and_text_by_record(world: Any, tmp_path: Path) -> None:
    world.annotations[0]["segmentation"] = [[1, 2, 3, 4]]
    world.annotations[1]["segmentation"] = []
    world.annotations[2]["segmentation"] = {"size": [12, 16], "counts": [100, 92]}
    world.refs[0]["sentences"][0]["sent"] = "the [SEG] thing"
    world.refs[1]["sentences"][0]["sent"] = " "
    report = check(world.write_refer(tmp_path / "refcoco"))
    masks = report.groups["masks"]
    assert (masks["refused"], masks["empty"], masks["RLE"], masks["objects"]) == (1, 1, 1, 10)
    assert report.groups["text"]["refused"] == 2
    assert [line.split(":")[0] for line in report.errors] == [
        "refcoco annotation 1000, polygon 0",
        "refcoco sentence 0",
        "refcoco sentence 2",
    ]


def test_plain_coco_objects_are_checked(worlds: Any, tmp_path: Path) -> None:
    made = worlds({"train": [1]})
    made.annotations[0]["segmentation"] = [[0] * 7]
    (tmp_path / "annotations").mkdir()
    path = tmp_path / "annotations" / "instances_train2017.json"
    path.write_text(json.dumps(made.instances()))
    made.draw(tmp_path / "train2017")
    report = check(tmp_path, split="train")
    assert report.groups["masks"]["refused"] == 1 and not report.usable


def test_wrong_counts(worlds: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = {"train": counts.Count(3, 6, 12), "val": counts.Count(1, 2, 4)}
    monkeypatch.setattr(counts, "COUNTS", {("refcoco", "unc"): plan})
    folder = worlds({"train": [1, 2], "val": [3]}).write_refer(tmp_path / "refcoco")
    report = check(folder)
    assert "train: 2 images, published 3" in report.errors[0] and report.exit_code == 1
    assert check(folder, allow_counts=True).usable


def test_files_that_do_not_load_become_errors(world: Any, tmp_path: Path) -> None:
    lines = tmp_path / "mine.jsonl"
    lines.write_text('{"image": 1}\n{\n')
    report = check(lines)
    assert report.exit_code == 1 and len(report.errors) == 2
    folder = world.write_refer(tmp_path / "refcoco")
    (folder / "refs(unc).p").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert "asks for the global" in check(folder).errors[0]
    report = check(tmp_path / "none")
    assert report.exit_code == 1
    assert "web.archive.org" in report.groups["sources"]["mirrors"]["refcocog"]


def test_no_photographs(world: Any, tmp_path: Path) -> None:
    report = check(world.write_refer(tmp_path / "refcoco", photos=""))
    assert "none of 5 images" in report.errors[0]
    assert report.groups["masks"]["objects"] == 10  # the rest is still checked


def test_the_list_stops_at_100_but_the_count_does_not(worlds: Any, tmp_path: Path) -> None:
    made = worlds({"train": list(range(1, 61))})
    for item in made.annotations:
        item["segmentation"] = [[1]]
    report = check(made.write_refer(tmp_path / "refcoco"))
    assert report.found == 120 and len(report.errors) == 100
    assert "errors (120, the first 100 shown):" in report.lines()


def test_hostile_text_is_printed_safely(world: Any, tmp_path: Path) -> None:
    world.refs[0]["sentences"][0]["sent"] = "\x1b[31mred\u202e"
    report = check(world.write_refer(tmp_path / "refcoco"))
    assert all(line.isprintable() for line in report.lines())
    assert "\\x1b[31mred\\u202e" in report.errors[0]
