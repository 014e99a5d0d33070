"""Fuzz of whole sources: whatever a data set says, every record is used or named, nothing breaks."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from support.fuzzing import FUZZ, holds, mutated, mutated_json, seeds
from svp.pipeline.datasets import Source, check, convert, open_dataset, photo_notices
from svp.pipeline.datasets.images import image_header
from svp.pipeline.masks.rle import area

NAMES = ["a.png", "b.jpg", "lying.jpg", "bad.png", "gone.png", "9" * 300 + ".png"]
HEIGHT, WIDTH = 9, 13
EVERY = 1 << 40  # bad records that are accepted
# Coordinates of every kind of tool and mistake, in a picture 13 wide and 9 high.
NUMBERS = st.one_of(
    st.floats(0, 1), st.floats(0, 13), st.floats(-3, 16), st.floats(0, 100), st.integers(0, 1000),
    st.sampled_from([-1e9, 50_000, 65_536.5, 1e300, 0, 8.999, 10**40]),
)  # fmt: skip
POLYGONS = st.lists(st.lists(NUMBERS, min_size=4, max_size=9), max_size=3)
MASKS = st.one_of(
    POLYGONS,
    mutated_json(seeds("segmentation")),
    st.sampled_from(["m.png", "small.png", "a.png", "b.jpg", "none.png", "../m.png", "", "x.npy"]),
    st.fixed_dictionaries(
        {"size": st.sampled_from([[9, 13], [13, 9], [18, 26], [9.0, 13.0], [9], "9x13", [9, True]]),
         "counts": st.sampled_from([[117], [0, 117], [100, 17], [], "m3", [117.0], [-1, 118]])}
    ),
)  # fmt: skip


def photographs(root: Path) -> None:
    """The corpus' images: one plain, one of another format, one that lies, one that is none."""
    if (root / "small.png").exists():  # written for an earlier example; nothing changes them
        return
    rng = np.random.default_rng(0)
    pixels = Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels.save(root / "a.png")
    pixels.save(root / "b.jpg")
    pixels.rotate(90, expand=True).save(root / "lying.jpg", exif=exif)
    (root / "bad.png").write_bytes(b"no picture")
    Image.new("L", (WIDTH, HEIGHT), 255).save(root / "m.png")
    Image.new("L", (4, 4), 255).save(root / "small.png")


def printable(text: str) -> bool:
    """As `fuzzing.holds`: blanks other than the common one stay as they are, they move nothing."""
    return "".join(char for char in text if unicodedata.category(char) != "Zs").isprintable()


def used(where: Path, sides: Callable[[Source], None], **options: Any) -> None:
    """Open it, look at all its masks, and check it: each may refuse, none may break."""

    def read() -> None:
        source = open_dataset(where, max_failures=EVERY, **options)
        assert all(map(printable, source.notices))
        photo_notices(source)
        for key, mask in source.good_masks.items():
            item = source.annotations[key]
            assert (mask.height, mask.width) == (item.height, item.width) and area(mask) >= 0
        assert not source.good_masks.keys() & source.bad_masks.keys()
        sides(source)

    holds(read)
    report = check(where, allow_counts=True)
    assert all(map(printable, report.lines()))
    assert json.dumps(report.to_json()) and report.usable == (report.exit_code == 0)


@FUZZ
@given(st.data())
def test_jsonl_lines_of_every_kind(tmp_path: Path, data: st.DataObject) -> None:
    photographs(tmp_path)
    rows: list[object] = []
    for _ in range(data.draw(st.integers(1, 6))):
        row: dict[str, object] = {
            "image": data.draw(st.sampled_from(NAMES)),
            "expression": data.draw(st.text(max_size=5) | st.just("a cup")),
            "mask": data.draw(MASKS),
        }
        more = data.draw(
            st.sampled_from([{}, {"split": "val"}, {"object": "o"}, {"id": "1"}, {"id": 1}])
        )
        rows.append(data.draw(st.sampled_from([row | more, row | more, [row], None])))
    path = tmp_path / data.draw(st.sampled_from(["mine.jsonl", "val.jsonl"]))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def accounted(source: Source) -> None:
        sentences = {row.sent_id for row in source.sentences}
        named = {line.split("line ", 1)[1].split(":")[0] for line in source.faults.lines}
        assert sentences | set(map(int, named)) == set(range(1, len(rows) + 1))
        for image in source.images:
            if image.path in ("a.png", "b.jpg"):
                assert (image.height, image.width) == image_header(tmp_path / image.path).upright

    try:
        used(path, accounted)
    finally:
        path.unlink()


@FUZZ
@given(mutated(seeds("jsonl")))
def test_jsonl_bytes(tmp_path: Path, data: bytes) -> None:
    photographs(tmp_path)
    (tmp_path / "mine.jsonl").write_bytes(data)
    used(tmp_path / "mine.jsonl", lambda source: None)


def instances(mask: object, size: object, name: object) -> dict[str, object]:
    height, width = size if isinstance(size, tuple) else (size, size)
    return {
        "images": [
            {"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH},
            {"id": 2, "file_name": name, "height": height, "width": width},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "segmentation": [[1, 1, 6, 1, 6, 6]]},
            {"id": 2, "image_id": 2, "segmentation": mask},
        ],
    }


SIZES = st.sampled_from(
    [(9, 13), (13, 9), (18, 26), (1, 1), (8192, 3), (9000, 3), 0, "9", 9.0, -4, None]
)


@FUZZ
@given(
    MASKS,
    SIZES,
    st.sampled_from([*NAMES, "../a.png", 7, "x:1.png", "", "9" * 300]),
    st.booleans(),
    st.data(),
)
def test_refer_and_coco_files(
    tmp_path: Path, mask: object, size: object, name: object, odd: bool, data: st.DataObject
) -> None:
    import pickle

    (tmp_path / "images").mkdir(exist_ok=True)
    (tmp_path / "refcoco").mkdir(exist_ok=True)
    photographs(tmp_path / "images")
    value: object = instances(mask, size, name)
    if odd:
        value = data.draw(mutated_json([json.dumps(value).encode()]))
    path = tmp_path / "refcoco" / "instances.json"
    path.write_text(json.dumps(value))
    refs: list[dict[str, object]] = [
        {"ref_id": i, "ann_id": i, "image_id": i, "category_id": 1, "split": "train", "sent_ids": [i],
         "file_name": "x", "sentences": [{"sent_id": i, "sent": "cup", "raw": "cup", "tokens": []}]}
        for i in (1, 2)
    ]  # fmt: skip
    (tmp_path / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs, 2))

    def accounted(source: Source) -> None:
        if not odd:
            assert len(source.sentences) + source.faults.found >= 2

    used(tmp_path / "refcoco", accounted, allow_counts=True)
    used(path, lambda source: None)

    def tables() -> None:
        out = tmp_path / "tables"
        try:
            convert(tmp_path / "refcoco", out, allow_counts=True, max_failures=EVERY)
            used(out, lambda source: None, images=tmp_path / "images")
        finally:
            if out.exists():
                for file in out.iterdir():
                    file.unlink()
                out.rmdir()

    holds(tables)
