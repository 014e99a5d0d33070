"""Polygons of another coordinate system: told with counts, refused where they cannot be right."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from svp.pipeline.datasets import Source, check, convert, open_dataset, photo_notices
from svp.pipeline.datasets.coordinates import Placement, extent, misplaced, systematic
from svp.pipeline.errors import DataError
from svp.pipeline.masks import rle

WIDTH, HEIGHT = 640, 480


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def scaled(mask: list[list[float]], x: float, y: float) -> list[list[float]]:
    return [[n * (x, y)[i % 2] for i, n in enumerate(part)] for part in mask]


GOOD = square(300, 200, 100)
REFUSED: dict[str, tuple[list[list[float]], str]] = {
    "shares": (scaled(GOOD, 1 / WIDTH, 1 / HEIGHT), "within 0..1, fractions of the side"),
    "shares, integers": ([[0, 0, 1, 0, 1, 1, 0, 1]], "multiply x by the width .640. and y by"),
    "shares beyond": ([[-0.02, 0.1, 1.1, 0.1, 1.1, 0.9]], "within 0..1"),
    "twice as large": (scaled(square(300, 300, 150), 2, 2), "x=900, y=900 in a picture 640 wide"),
    "half as large again": (
        scaled(square(400, 200, 200), 1.5, 1.5),
        "at least 1.41 times as large",
    ),
    "far outside": (square(50_000, 100, 60), "x=50060 .*wholly outside"),
    "one corner": ([[10, 10, 50_000, 10, 60, 60]], "reaches x=50000"),
    "outside": (square(700, 100, 50), "wholly outside"),
    "left of it": (square(-300, 100, 100), "x=-300 .*wholly outside"),
    "above it": (square(100, -300, 100), "y=-300 .*wholly outside"),
    "half outside": (square(560, 100, 160), "reaches x=720"),
    "thousandths": (square(850, 100, 100), "x=950"),
}
CLIPPED = {"by a little": square(600, 100, 60), "left": square(-20, 100, 60)}


def draw(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT), orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size, (90, 120, 60)).save(path, exif=exif)


def jsonl(root: Path, *masks: Any, image: str = "a.png") -> Path:
    rows = [{"image": image, "expression": f"thing {i}", "mask": m} for i, m in enumerate(masks)]
    path = root / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def refer(root: Path, worlds: Any, *masks: Any) -> Path:
    made = worlds({"train": list(range(1, len(masks) + 1))})
    for image in made.images:
        image |= {"height": HEIGHT, "width": WIDTH}
        draw(root / "images" / image["file_name"])
    for item in made.annotations:
        item["segmentation"] = masks[item["image_id"] - 1]
    return Path(made.write_refer(root / "refcoco", photos=""))


def hub(root: Path, worlds: Any, *masks: Any) -> Path:
    made = worlds({"train": list(range(1, len(masks) + 1))})
    for image in made.images:
        image |= {"height": HEIGHT, "width": WIDTH}
        draw(root / "images" / image["file_name"])
    for item in made.annotations:
        item["segmentation"] = masks[item["image_id"] - 1]
    return Path(made.write_hub(root / "refcoco"))


def opened(kind: str, root: Path, worlds: Any, *masks: Any, **options: Any) -> Source:
    draw(root / "a.png")
    if kind == "jsonl":
        return open_dataset(jsonl(root, *masks), **options)
    where = (refer if kind == "refer" else hub)(root, worlds, *masks)
    return open_dataset(where, split="train", **options)


@pytest.mark.parametrize("kind", ["jsonl", "refer", "hub"])
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_right_is_refused(case: str, kind: str, worlds: Any, tmp_path: Path) -> None:
    mask, rule = REFUSED[case]
    with pytest.raises(DataError, match="coordinates that do not fit the images") as caught:
        opened(kind, tmp_path, worlds, mask, max_failures=None)
    assert all(re.search(rule, line) for line in caught.value.problems)
    assert all(line.startswith((str(tmp_path), "refcoco")) for line in caught.value.problems)


@pytest.mark.parametrize("kind", ["jsonl", "refer", "hub"])
def test_one_among_good_ones_costs_itself(kind: str, worlds: Any, tmp_path: Path) -> None:
    source = opened(kind, tmp_path, worlds, GOOD, square(50_000, 1, 9), GOOD, max_failures=None)
    assert sum("x=50009" in line for line in source.notices) == 1
    objects = 1 if kind == "jsonl" else 2  # of each image
    assert len(source.good_masks) == 2 * objects
    report = check(tmp_path / ("mine.jsonl" if kind == "jsonl" else "refcoco"))
    assert report.usable and len(report.left_out) == objects
    assert all("x=50009" in line for line in report.left_out)


@pytest.mark.parametrize("kind", ["jsonl", "refer"])
def test_several_of_many_refuse_the_file(kind: str, worlds: Any, tmp_path: Path) -> None:
    """Those that fit are on another scale as well."""
    masks = [*[GOOD] * 20, *[square(700, 100, 100)] * 5]
    with pytest.raises(DataError, match="coordinates that do not fit the images"):
        opened(kind, tmp_path, worlds, *masks, max_failures=None)
    accepted = opened(kind, tmp_path, worlds, *masks, max_failures=10)
    assert len(accepted.good_masks) == 20 * (1 if kind == "jsonl" else 2)


@pytest.mark.parametrize("kind", ["jsonl", "refer", "hub"])
@pytest.mark.parametrize("case", CLIPPED)
def test_a_little_beyond_the_edge_is_clipped_and_counted(
    case: str, kind: str, worlds: Any, tmp_path: Path
) -> None:
    source = opened(kind, tmp_path, worlds, GOOD, CLIPPED[case])
    (notice,) = [line for line in source.notices if line.startswith("clipped: ")]
    count = "1 of 2 objects" if kind == "jsonl" else "2 of 4 objects"
    assert count in notice and "by up to 20 pixels" in notice
    assert min(rle.area(mask) for mask in source.masks.values()) == 40 * 60
    assert any("clipped: " in n for n in check(tmp_path / "mine.jsonl").notices) or kind != "jsonl"


def test_rounding_at_the_edge_is_no_news(tmp_path: Path, worlds: Any) -> None:
    source = opened("jsonl", tmp_path, worlds, square(-0.5, 0, 300), [[0, 0, 641, 0, 641, 480.5]])
    assert not [line for line in source.notices if "clipped" in line]


@pytest.mark.parametrize(("unit", "word"), [(100, "percent?"), (1000, "thousandths of the side?")])
def test_percent_and_thousandths_are_told(
    unit: int, word: str, worlds: Any, tmp_path: Path
) -> None:
    draw(tmp_path / "a.png", (unit * 4, unit * 3))
    mask = scaled(square(20, 20, 70), unit / 100, unit / 100)
    source = open_dataset(jsonl(tmp_path, mask, mask))
    (notice,) = [line for line in source.notices if word in line]
    assert notice.startswith(f"polygons of all 2 objects lie in 0..{unit} while no picture")
    plain = open_dataset(jsonl(tmp_path, mask, square(unit * 2, unit * 2, unit)))
    assert not [line for line in plain.notices if word in line]


@pytest.mark.parametrize(
    ("side", "masks"),
    [
        (128, [square(20, 20, 70)]),  # one object
        (128, [square(3 * k, 2 * k, 60) for k in range(12)]),  # small pictures
        (640, [square(5, 5, 30), square(10, 10, 20)]),  # small objects near one corner
    ],
)
def test_small_objects_are_no_percent(
    side: int, masks: list[object], worlds: Any, tmp_path: Path
) -> None:
    draw(tmp_path / "a.png", (side, side))
    notices = open_dataset(jsonl(tmp_path, *masks)).notices
    assert not [line for line in notices if "coordinates are read as pixels" in line]


def test_a_smaller_copy_is_told(worlds: Any, tmp_path: Path) -> None:
    masks = [square(12 * k, 12 * k, 120) for k in range(10)]
    source = opened("jsonl", tmp_path, worlds, *masks)
    assert any("the upper left quarter of their pictures" in line for line in source.notices)


def test_convert_refuses_by_the_same_rule(worlds: Any, tmp_path: Path) -> None:
    where = refer(tmp_path, worlds, GOOD, REFUSED["shares"][0])
    with pytest.raises(DataError, match="within 0..1"):
        convert(where, tmp_path / "out")
    report = convert(where, tmp_path / "out", max_failures=2)
    assert report.left_out == 2 and report.rows["masks"] == 2


def test_coco_objects_are_checked_by_data_check(worlds: Any, tmp_path: Path) -> None:
    where = refer(tmp_path, worlds, REFUSED["twice as large"][0]) / "instances.json"
    report = check(where)
    assert (
        not report.usable and "2 of 2 objects have coordinates that do not fit" in report.errors[0]
    )
    assert len(report.left_out) == 2


def test_an_rle_of_another_size_says_how(worlds: Any, tmp_path: Path) -> None:
    for size, hint in (([WIDTH, HEIGHT], "turned by 90 degrees it would fit"), ([48, 64], "48x64")):
        runs = {"size": size, "counts": [size[0] * size[1]]}
        with pytest.raises(DataError, match=hint):
            opened("jsonl", tmp_path, worlds, runs)


def test_drawn_before_the_exif_turn(tmp_path: Path) -> None:
    """Stored 160 x 100, shown 100 x 160: drawn lying, the polygon does not fit what is shown."""
    draw(tmp_path / "a.png", (160, 100), orientation=6)
    upright = [[10, 40, 90, 40, 90, 150, 10, 150]]
    source = open_dataset(jsonl(tmp_path, upright))
    (record,) = source.images
    assert (record.height, record.width) == (160, 100)
    assert [rle.area(mask) for mask in source.masks.values()] == [8800]
    assert any("turned upright by their EXIF orientation: 1 of 1" in n for n in source.notices)
    with pytest.raises(DataError, match="turned by 90 degrees: drawn before its EXIF turn"):
        open_dataset(jsonl(tmp_path, [[40, 10, 150, 10, 150, 90, 40, 90]]))


def test_masks_of_the_stored_size_leave_the_photograph_as_stored(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", (160, 100), orientation=6)
    mask = np.zeros((100, 160), np.bool_)
    mask[10:20, 100:150] = True
    made = rle.encode(mask)
    source = open_dataset(jsonl(tmp_path, {"size": [100, 160], "counts": made.counts.decode()}))
    (record,) = source.images
    assert (record.height, record.width) == (100, 160) and list(source.masks.values()) == [made]
    assert any(
        "left as stored, against their EXIF orientation: 1 of 1" in n for n in source.notices
    )


@pytest.mark.parametrize(("size", "word"), [((16, 12), "left as stored"), ((12, 16), "upright by")])
def test_refer_annotations_decide_by_their_size(
    size: tuple[int, int], word: str, worlds: Any, tmp_path: Path
) -> None:
    """The set says 16 x 12; the file is stored that way, or shown that way."""
    made = worlds({"train": [1]})
    folder = made.write_refer(tmp_path / "refcoco", photos="")
    draw(tmp_path / "images" / made.images[0]["file_name"], size, orientation=6)
    source = open_dataset(folder, split="train")
    (notice,) = photo_notices(source)
    assert word in notice and (source.images[0].height, source.images[0].width) == (12, 16)
    report = check(folder)
    assert report.usable and report.groups["images"]["good"] == 1 and notice in report.notices


def test_photographs_of_another_size_are_told_before(worlds: Any, tmp_path: Path) -> None:
    made = worlds({"train": [1, 2]})
    folder = made.write_refer(tmp_path / "refcoco")
    draw(tmp_path / "images" / made.images[0]["file_name"], (32, 24))
    (notice,) = photo_notices(open_dataset(folder, split="train"))
    assert "will be quarantined" in notice and "24x32, the annotations say 12x16" in notice


def test_odd_values_are_left_to_the_rules_of_masks() -> None:
    odd: object
    for odd in (None, "x", 5, {}, [], [[]], [[1, 2]], [[1, 2, 3, 4, 5]], [["a"] * 6], [[1] * 7],
                [[float("nan")] * 6], [[10**400] * 6], [{"size": 1}], [[1] * 6, {}]):  # fmt: skip
        assert extent(odd) is None
    assert extent([[1, 2, 3, 4, 5, 6], (7.5, -1, 0, 0, 0, 0)]) == (0.0, -1.0, 7.5, 6.0)


def test_small_pictures_may_have_small_polygons() -> None:
    assert misplaced((0, 0, 1, 1), 7, 5) is None
    assert misplaced((0, 0, 1, 1), 8, 8) is not None
    assert misplaced((-2, 0, 3, 3), 4, 4) is None  # two pixels, however small the picture


def test_what_counts_as_systematic() -> None:
    assert [systematic(*case) for case in ((0, 0), (0, 9), (1, 2), (2, 3), (4, 30), (5, 30), (5, 51))] == [
        False, False, False, True, False, True, False]  # fmt: skip


def test_nothing_is_said_of_no_polygons() -> None:
    placement = Placement()
    placement.add({"size": [4, 4], "counts": [16]}, 4, 4, "x")
    assert placement.polygons == 0 and placement.notices() == []
