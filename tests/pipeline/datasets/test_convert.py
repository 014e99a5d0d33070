"""Converted tables are a source with the same content; JSONL export round-trips masks."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from svp.pipeline.datasets import convert, export_jsonl, open_dataset
from svp.pipeline.datasets.convert import FILES, META, read_tables
from svp.pipeline.errors import DataError, MissingError


def test_reading_back_gives_the_same_source(world: Any, tmp_path: Path) -> None:
    folder = world.write_refer(tmp_path / "refcoco")
    report = convert(folder, tmp_path / "out")
    assert report.rows == {"images": 5, "masks": 10, "sentences": 20}
    assert report.counts["refcoco/unc"]["train"].refs == 6
    ours, theirs = (
        open_dataset(tmp_path / "out", split="train"),
        open_dataset(folder, split="train"),
    )
    assert ours.kind == "tables" and ours.name == theirs.name
    assert ours.images == theirs.images and ours.sentences == theirs.sentences
    assert ours.expressions == theirs.expressions
    assert ours.sha256 == theirs.sha256  # still those of the original files


def test_several_sets_and_folders_convert_too(worlds: Any, tmp_path: Path) -> None:
    worlds({"train": [1, 2]}).write_refer(tmp_path / "d" / "refcoco")
    worlds({"train": [2], "test": [3]}).write_refer(tmp_path / "d" / "refcocog", "umd")
    convert(tmp_path / "d", tmp_path / "out")
    source = open_dataset(tmp_path / "out", images=tmp_path / "d" / "images", split="train")
    assert source.images == open_dataset(tmp_path / "d", split="train").images
    convert(tmp_path / "d" / "images", tmp_path / "photos")
    again = open_dataset(tmp_path / "photos", images=tmp_path / "d" / "images")
    assert again.images == open_dataset(tmp_path / "d" / "images").images


def test_photographs_need_not_be_there(world: Any, tmp_path: Path) -> None:
    convert(world.write_refer(tmp_path / "refcoco", photos=""), tmp_path / "out")
    with pytest.raises(MissingError, match="--images"):
        open_dataset(tmp_path / "out")


def test_bytes_do_not_depend_on_the_hash_seed(world: Any, tmp_path: Path) -> None:
    folder = world.write_refer(tmp_path / "refcoco")
    made = []
    for seed in ("0", "1"):
        out = tmp_path / f"out{seed}"
        code = (
            "import sys; from pathlib import Path; from svp.pipeline.datasets import convert;"
            "convert(Path(sys.argv[1]), Path(sys.argv[2]))"
        )
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", code, str(folder), str(out)]
        subprocess.run(command, check=True, env=environment)
        made.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert made[0] == made[1]
    assert set(made[0]) == {META, *(f"{name}.jsonl" for name in FILES)}


def test_nothing_half_written(world: Any, tmp_path: Path) -> None:
    world.annotations[0]["segmentation"] = [[1, 2]]
    world.annotations[5]["segmentation"] = {"size": [12, 16], "counts": [1]}
    folder = world.write_refer(tmp_path / "refcoco")
    with pytest.raises(DataError, match="2 problems: .*annotation 1000.*annotation 1005"):
        convert(folder, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "refcoco"]


def test_a_bad_mask_costs_its_own_sentences(world: Any, tmp_path: Path) -> None:
    bad = world.annotations[0]["id"]
    world.annotations[0]["segmentation"] = [[1, 2, 3, 4]]
    folder = world.write_refer(tmp_path / "refcoco")
    report = convert(folder, tmp_path / "out", max_failures=None)
    assert report.left_out == 1 and report.to_json()["left_out"] == 1
    assert any("polygon 0: 4 numbers" in line for line in report.lines())
    rows = [json.loads(line) for line in (tmp_path / "out/sentences.jsonl").open()]
    assert rows and bad not in {row["ann_id"] for row in rows}
    again = open_dataset(tmp_path / "out", images=tmp_path / "images")
    assert len(again.expressions) == len(rows)


def test_a_failing_write_leaves_nothing(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = world.write_refer(tmp_path / "refcoco")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        convert(folder, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "refcoco"]


def test_an_existing_folder_is_not_touched(world: Any, tmp_path: Path) -> None:
    folder = world.write_refer(tmp_path / "refcoco")
    with pytest.raises(DataError, match="exists and is not empty"):
        convert(folder, folder)
    (tmp_path / "out").mkdir()
    convert(folder, tmp_path / "out")  # an empty one is fine


@pytest.mark.parametrize("name", FILES)
def test_changed_tables_are_refused(name: str, world: Any, tmp_path: Path) -> None:
    convert(world.write_refer(tmp_path / "refcoco"), tmp_path / "out")
    path = tmp_path / "out" / f"{name}.jsonl"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(DataError, match=f"{name}.jsonl: missing or changed"):
        read_tables(tmp_path / "out")
    path.unlink()
    with pytest.raises(DataError, match="missing or changed"):
        read_tables(tmp_path / "out")


def test_forged_tables_are_still_checked(world: Any, tmp_path: Path) -> None:
    """Digests do not make a file trusted: whoever writes the tables writes them too."""
    import hashlib

    out = tmp_path / "out"
    convert(world.write_refer(tmp_path / "refcoco"), out)
    path = out / "images.jsonl"
    path.write_text(path.read_text().replace("COCO_train2014_000000000001.jpg", "../../x.jpg"))
    meta = json.loads((out / META).read_text())
    meta["files"]["images"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (out / META).write_text(json.dumps(meta))
    with pytest.raises(DataError, match="image 1: file name .* is refused"):
        read_tables(out)
    for damage in ({}, {"format": "svp-tables", "version": 2}, {**meta, "files": {}}):
        (out / META).write_text(json.dumps(damage))
        with pytest.raises(DataError):
            read_tables(out)


def test_export_round_trip(world: Any, tmp_path: Path) -> None:
    source = open_dataset(world.write_refer(tmp_path / "refcoco"))
    assert export_jsonl(source, tmp_path / "mine.jsonl") == 20
    again = open_dataset(tmp_path / "mine.jsonl", images=source.image_root)

    def content(opened: Any) -> list[tuple[str, bytes, str]]:
        paths = {record.image_id: record.path for record in opened.images}
        return sorted((paths[e.image_id], e.mask.counts, e.text) for e in opened.expressions)

    assert content(again) == content(source)
    splits = sorted({row.split for row in again.sentences})
    assert splits == ["test", "train", "val"]  # testA becomes test
    assert len({e.ann_id for e in again.expressions}) == 10  # objects stay objects
    assert not list(tmp_path.glob(".*partial"))


def test_export_leaves_its_source_and_devices_alone(world: Any, tmp_path: Path) -> None:
    source = open_dataset(world.write_refer(tmp_path / "refcoco"))
    export_jsonl(source, tmp_path / "mine.jsonl")
    mine = open_dataset(tmp_path / "mine.jsonl", images=source.image_root)
    before = (tmp_path / "mine.jsonl").read_bytes()
    for out in (tmp_path / "mine.jsonl", tmp_path / "refcoco" / ".." / "mine.jsonl"):
        with pytest.raises(DataError, match="a file of the data set itself"):
            export_jsonl(mine, out)
    assert (tmp_path / "mine.jsonl").read_bytes() == before
    os.mkfifo(tmp_path / "pipe")
    for name, rule in (("refcoco", "is a folder"), ("pipe", "is no regular file")):
        with pytest.raises(DataError, match=rule):
            export_jsonl(source, tmp_path / name)
    assert not list(tmp_path.glob(".*"))
