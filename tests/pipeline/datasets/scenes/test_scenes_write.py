import hashlib
import json
import pickletools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from svp.pipeline.datasets import open_dataset
from svp.pipeline.datasets.refer_records import load_refs
from svp.pipeline.datasets.scenes import is_generated, make_scene, write, write_scenes
from svp.pipeline.datasets.scenes.generated import worlds_of
from svp.pipeline.datasets.scenes.language import CLASSES
from svp.pipeline.errors import ConfigError, DataError
from svp.pipeline.masks.rle import decode
from svp.pipeline.records import Rle


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes") / "a", images=12, seed=4)


def test_images_and_masks_are_those_of_make_scene(folder: Path) -> None:
    made = make_scene(4, 1, "train")
    image = np.asarray(Image.open(folder / "images" / "train_000001.png"))
    assert (image == made.image).all()
    instances = json.loads((folder / "refcoco" / "instances.json").read_text())
    annotations = [a for a in instances["annotations"] if a["image_id"] == 2]
    regions = len(made.scene.regions)
    assert len(annotations) == regions + len(made.scene.things)
    for k, annotation in enumerate(annotations, 1):
        (segmentation,) = annotation["segmentation"]
        mask = decode(Rle(*segmentation["size"], segmentation["counts"].encode()))
        assert (mask == (made.labels.whole == k)).all()
        x, y, w, h = annotation["bbox"]
        assert mask[y : y + h, x : x + w].sum() == mask.sum() == annotation["area"]
    names = {c["id"]: c["name"] for c in instances["categories"]}
    shapes = [names[a["category_id"]] for a in annotations[regions:]]
    assert shapes == [t.shape for t in made.scene.things]


def test_refer_file_needs_no_globals_and_agrees_with_the_tables(folder: Path) -> None:
    path = folder / "refcoco" / "refs(unc).p"
    data = path.read_bytes()
    codes = {op.name for op, _, _ in pickletools.genops(data)}
    assert not codes & {"GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "INST", "OBJ"}
    assert data[:2] == b"\x80\x02"
    refs, notices = load_refs(path)
    classes = json.loads((folder / "word_classes.json").read_text())["sentences"]
    lines = [json.loads(line) for line in (folder / "scenes.jsonl").read_text().splitlines()]
    instances = json.loads((folder / "refcoco" / "instances.json").read_text())
    annotations = {a["id"]: a for a in instances["annotations"]}
    sentences = [(ref, *sentence[:2]) for ref in refs for sentence in ref.sentences]
    assert not notices and len(sentences) == len(lines) == len(classes) > 100
    assert {ref.split for ref in refs} == {"train", "val", "testA", "testB"}
    for (ref, sent_id, sent), line in zip(sentences, lines, strict=True):
        assert line["expression"] == sent
        assert [line["mask"]] == annotations[ref.ann_ids[0]]["segmentation"]
        assert ref.image_id == annotations[ref.ann_ids[0]]["image_id"]
        assert (folder / line["image"]).is_file()
        told = classes[str(sent_id)]
        assert told and told == [c for c in CLASSES if c in told]


def as_published(annotation: dict[str, Any], height: int, width: int) -> Any:
    """An annotation's pixels as REFER's loaders read them (lichengunc/refer, refer.py getMask)."""
    from pycocotools import mask

    parts = annotation["segmentation"]
    if isinstance(parts[0], list):
        parts = mask.frPyObjects(parts, height, width)
    return mask.decode(parts).sum(axis=2)


def test_refer_loaders_and_cocos_api_open_their_own_file(folder: Path) -> None:
    from pycocotools.coco import COCO

    coco = COCO(folder / "annotations" / "instances.json")
    instances = json.loads((folder / "refcoco" / "instances.json").read_text())
    assert len(instances["annotations"]) == len(coco.anns) > 20
    for annotation in instances["annotations"]:
        mask = coco.annToMask(coco.anns[annotation["id"]])
        assert (as_published(annotation, 128, 128) == mask).all()
        assert mask.sum() == annotation["area"] > 0


def test_scenes_of_another_version_are_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "old")
    mark = json.loads((tmp_path / "old" / "digest.json").read_text())
    (tmp_path / "old" / "digest.json").write_text(json.dumps({**mark, "format": 1}))
    with pytest.raises(DataError, match="another version of svp"):
        write_scenes(tmp_path / "old", images=12, seed=4)


def test_generated_scenes_are_known_by_their_folder(folder: Path, tmp_path: Path) -> None:
    for form, images in (("refcoco", None), (".", None), ("scenes.jsonl", None), ("images", None)):
        assert open_dataset(folder / form, images=images).generated, form
    images = folder / "images"
    assert is_generated([images / "val_000000.png"])
    assert worlds_of([images / "val_000000.png"]) == {1}
    assert not is_generated([])
    assert not is_generated([images / "val_000001.png"])  # there is one val scene
    assert not is_generated([folder / "val_000000.png"])
    assert not is_generated([images / "val_000000.png", images / "holiday.png"])
    other = tmp_path / "images"
    shutil.copytree(folder / "images", other)
    assert not open_dataset(other).generated
    for odd in (b"", b"[]", b"{}", b"[" * 100_000, b'{"format":1,"seed":0,"size":0,"sha256":0}'):
        (tmp_path / "digest.json").write_bytes(odd)
        assert not open_dataset(other).generated


@pytest.mark.parametrize("form", ["refcoco", "scenes.jsonl"])
def test_both_forms_open_as_the_same_source(folder: Path, form: str) -> None:
    source = open_dataset(folder / form, images=folder if form != "refcoco" else folder / "images",
                         split="train", allow_counts=True)  # fmt: skip
    assert len(source.images) == 9
    assert {(r.height, r.width) for r in source.images} == {(128, 128)}
    assert len(source.expressions) > 80
    assert all((source.image_root / record.path).is_file() for record in source.images)


def test_splits_share_no_image(folder: Path) -> None:
    pictures = files(folder / "images")
    assert len({hashlib.sha256(data).digest() for data in pictures.values()}) == 12
    assert sorted(name.split("_")[0] for name in pictures).count("train") == 9


def test_a_scene_does_not_depend_on_how_many_there_are(folder: Path, tmp_path: Path) -> None:
    small = write_scenes(tmp_path / "b", images=3, seed=4, splits={"train": 2, "testB": 1})
    mine, larger = files(small / "images"), files(folder / "images")
    assert mine and all(larger[name] == data for name, data in mine.items())
    ours = (small / "scenes.jsonl").read_text().splitlines()
    assert set(ours) <= set((folder / "scenes.jsonl").read_text().splitlines())


def test_a_second_run_does_nothing_and_equal_arguments_give_equal_bytes(
    folder: Path, tmp_path: Path
) -> None:
    times = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    write_scenes(folder, images=12, seed=4)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == times
    assert files(write_scenes(tmp_path / "c", images=12, seed=4)) == files(folder)


def test_digests_are_those_of_the_files(folder: Path) -> None:
    digests = json.loads((folder / "digest.json").read_text())["sha256"]
    for name in set(digests) - {"images"}:
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digests[name]


def test_other_contents_are_never_overwritten(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds other scenes"):
        write_scenes(folder, images=12, seed=5)
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="is not empty"):
        write_scenes(tmp_path, images=12, seed=5)
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("svp.pipeline.datasets.scenes.write._add", fail)
    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "d", images=2, seed=0)
    assert list(tmp_path.iterdir()) == []


def test_counts_must_add_up(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="equal to the sum"):
        write_scenes(tmp_path / "e", images=3, seed=0, splits={"train": 2})
    with pytest.raises(ConfigError, match="'test'"):
        write_scenes(tmp_path / "e", images=2, seed=0, splits={"test": 2})
    with pytest.raises(ConfigError, match="images=0"):
        write_scenes(tmp_path / "e", images=0, seed=0)


def test_two_writers_at_once_leave_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second finds the first's scenes where its own should go, and takes them if they are equal."""
    whole = write_scenes(tmp_path / "whole", images=2, seed=4)
    before = write._write_all

    def slow(*arguments: Any) -> Any:
        digests = before(*arguments)
        shutil.copytree(whole, out)  # the first writer has just finished
        return digests

    monkeypatch.setattr(write, "_write_all", slow)
    out = tmp_path / "out"
    assert write_scenes(out, images=2, seed=4) == out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "whole"]
    shutil.rmtree(out)
    with pytest.raises(DataError, match="other scenes"):
        write_scenes(out, images=2, seed=5)


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    file = tmp_path / "scenes"
    file.write_text("mine")
    with pytest.raises(DataError, match=r"scenes is a file, scenes are a folder: choose another"):
        write_scenes(file, images=10, seed=0)
    assert file.read_text() == "mine"
