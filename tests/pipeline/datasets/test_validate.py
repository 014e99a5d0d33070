"""`svp data check`: each kind of damage is found, named, and decides the exit code."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from svp.pipeline.datasets import check, open_dataset, published_counts
from svp.pipeline.datasets.validation_report import CheckReport
from svp.pipeline.errors import DataError
from svp.pipeline.precompute.planner import Content
from svp.pipeline.precompute.run import RunOptions, precompute
from svp.pipeline.recipe import Recipe
from svp.pipeline.records import LocalPaths

RECIPE = Recipe.model_validate({"superpixels": {"source": "slic"}})


def draw(folder: Path, number: int, name: str | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 12), (number, 90, 90)).save(folder / (name or f"{number}.png"))


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
    assert report.exit_code == 0 and report.found == 4 == len(report.quarantined)
    assert report.lines()[0].endswith(": usable; 4 photographs quarantined")
    assert any("turned by 90 degrees it would match" in line for line in report.quarantined)
    strict = check(folder, max_failures=3)
    assert strict.exit_code == 1
    assert strict.lines()[0].endswith("NOT usable; 4 photographs quarantined, more than "
                                      "--max-failures 3")  # fmt: skip
    assert check(folder, max_failures=4).usable
    paths[4].write_bytes(b"")
    (none,) = check(folder).errors
    assert none == "not one of 5 photographs can be read" and not check(folder).usable
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
    assert report.usable and report.lines()[0].endswith(": usable; 3 bad records left out")
    strict = check(tmp_path / "refcoco", max_failures=2)
    assert strict.lines()[0].endswith(
        "NOT usable; 3 bad records left out, more than --max-failures 2"
    )
    assert [line.split(":")[0] for line in report.left_out] == [
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
    assert report.groups["masks"]["refused"] == 1 and report.found == 1
    assert not check(tmp_path, split="train", max_failures=0).usable


def test_wrong_counts(worlds: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = {"train": published_counts.Count(3, 6, 12), "val": published_counts.Count(1, 2, 4)}
    monkeypatch.setattr(published_counts, "COUNTS", {("refcoco", "unc"): plan})
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


@pytest.mark.parametrize("bad", [2, 4, 6])
@pytest.mark.parametrize("allowed", [None, 3, 9])
@pytest.mark.parametrize("kind", ["syntax", "place", "mask"])
def test_check_and_run_agree_on_bad_lines(
    kind: str, bad: int, allowed: int | None, tmp_path: Path
) -> None:
    """A check with the run's own --max-failures says usable where the run opens the set."""
    draw(tmp_path, 1, "a.jpg")
    good = {"image": "a.jpg", "expression": "x", "mask": [[1, 1, 9, 1, 9, 9]]}
    outside = {"place": [[90, 90, 99, 90, 99, 99]], "mask": [[1, 2, 3]]}
    wrong = "{" if kind == "syntax" else json.dumps({**good, "mask": outside[kind]})
    for rest in (5, 2 * bad + 1):
        path = tmp_path / f"{rest}.jsonl"
        path.write_text("\n".join([wrong] * bad + [json.dumps(good)] * rest))
        try:
            open_dataset(path, max_failures=allowed)
        except DataError:
            assert not check(path, max_failures=allowed).usable
        else:
            assert check(path, max_failures=allowed).usable


def test_check_and_run_agree_on_bad_refs(world: Any, tmp_path: Path) -> None:
    """Too many in one of the two files is too many, however long the other is."""
    for row in world.refs[:6]:
        row["split"] = "dev"
    folder = world.write_refer(tmp_path / "refcoco")
    with pytest.raises(DataError, match="6 problems in 10 records, more than half"):
        open_dataset(folder, max_failures=None)
    report = check(folder)
    assert "6 problems in 10 records, more than half" in report.errors[0]
    assert open_dataset(folder, max_failures=6).faults.found == 6
    assert check(folder, max_failures=6).usable


def test_a_set_without_images_is_said_to_be_empty(tmp_path: Path) -> None:
    path = tmp_path / "annotations" / "instances_train2017.json"
    path.parent.mkdir()
    path.write_text('{"images": [], "annotations": []}')
    assert check(tmp_path).errors == ["train2017: holds no image"]


def test_no_photographs(world: Any, tmp_path: Path) -> None:
    report = check(world.write_refer(tmp_path / "refcoco", photos=""))
    assert "none of 5 images" in report.errors[0]
    assert report.groups["masks"]["objects"] == 10  # the rest is still checked


def test_the_list_stops_at_100_but_the_count_does_not(worlds: Any, tmp_path: Path) -> None:
    made = worlds({"train": list(range(1, 61))})
    for item in made.annotations:
        item["segmentation"] = [[1]]
    report = check(made.write_refer(tmp_path / "refcoco"))
    assert report.found == 121 and len(report.left_out) == 100
    assert "note: left out (120, the first 100 shown):" in report.lines()
    assert not report.usable and report.errors == [
        "refcoco/unc: 120 of 120 masks are bad: more than half"
    ]


def test_hostile_text_is_printed_safely(world: Any, tmp_path: Path) -> None:
    world.refs[0]["sentences"][0]["sent"] = "\x1b[31mred\u202e"
    report = check(world.write_refer(tmp_path / "refcoco"))
    assert all(line.isprintable() for line in report.lines())
    assert "\\x1b[31mred\\u202e" in report.left_out[0]


@pytest.mark.parametrize("kind", ["folder", "refcoco"])
def test_check_and_precompute_agree(kind: str, world: Any, tmp_path: Path) -> None:
    """Both accept an image that cannot be read, by the same word, unless --max-failures is less."""
    if kind == "folder":
        draw(tmp_path / "set", 1)
        draw(tmp_path / "set", 2)
        data, bad = tmp_path / "set", tmp_path / "set" / "bad.jpg"
    else:
        data = world.write_refer(tmp_path / "refcoco")
        bad = tmp_path / "images" / world.images[0]["file_name"]
    bad.write_bytes(b"no photograph")
    for allowed, code in ((None, 0), (1, 0), (0, 1)):
        assert check(data, max_failures=allowed).exit_code == code
        options = RunOptions(workers=0, max_failures=allowed)
        source = open_dataset(data)
        where = LocalPaths(source.image_root)
        out = tmp_path / f"cache{allowed}"
        report = precompute(Content(source.images), RECIPE, where, out, options, quiet=True)
        assert report.exit_code == code
        assert "quarantined: 1 x not-an-image" in report.lines()
    assert check(data).lines()[0].endswith("usable; 1 photograph quarantined")
    for path in bad.parent.iterdir():
        path.write_bytes(b"no photograph")
    assert check(data).exit_code == 1
    where, out = LocalPaths(open_dataset(data).image_root), tmp_path / "none"
    options = RunOptions(workers=0)
    content = Content(open_dataset(data).images)
    assert precompute(content, RECIPE, where, out, options, quiet=True).exit_code == 1


def test_polygons_are_not_counted_as_rle(tmp_path: Path) -> None:
    draw(tmp_path, 1, "a.png")
    square = [[1, 1, 6, 1, 6, 6, 1, 6]]
    masks = [square, square * 2, {"size": [12, 16], "counts": [100, 92]}, []]
    records = [{"image": "a.png", "expression": "x", "mask": m, "split": "val"} for m in masks]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    group = check(path).groups["masks"]
    assert (group["polygons"], group["RLE"], group["empty"], group["several parts"]) == (2, 1, 1, 1)
    assert group["overlapping parts (summing would give 2)"] == 1


def test_what_is_not_there_has_no_heading(tmp_path: Path) -> None:
    draw(tmp_path, 1, "a.png")
    lines = check(tmp_path).lines()
    assert not {"leaks:", "sources:"} & set(lines)
    assert not any(line.rstrip().endswith(":") and line.startswith("  ") for line in lines)


def test_missing_photographs_are_told_with_all_else(tmp_path: Path) -> None:
    good = {"image": "gone.png", "expression": "x", "mask": [[1, 1, 6, 1, 6, 6]]}
    rows = [good, {**good, "expression": ""}, {**good, "mask": [1, 2]}, {**good, "split": "x"}]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = check(path)
    assert not report.usable
    assert [line.removeprefix(f"{path}: ")[:6] for line in report.left_out] == ["line 2", "line 4"]
    assert len(report.quarantined) == 1 and "gone.png" in report.quarantined[0]


def test_the_first_line_counts_faults_of_every_kind() -> None:
    report = CheckReport("mine", allowed=2)
    report.leave_out("a record")
    report.quarantine("a photograph")
    assert report.lines()[0] == "mine: usable; 1 bad record left out; 1 photograph quarantined"
    report.quarantine("another")
    assert report.lines()[0] == (
        "mine: NOT usable; 1 bad record left out; 2 photographs quarantined, together more than "
        "--max-failures 2"
    )
    report.error("what stops a run")
    assert report.lines()[0] == (
        "mine: NOT usable; 1 error; 1 bad record left out; 2 photographs quarantined"
    )
