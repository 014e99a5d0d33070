"""Ref-L4 and Ref-Adv: boxes of parquet rows, their evaluation, and what refuses them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.published_sets import H, W, adv, jpeg, l4, ref_l4, write_parquet
from svp.pipeline.datasets import check, convert, export_jsonl, open_dataset
from svp.pipeline.datasets.images import read_image
from svp.pipeline.datasets.photo_files import photo_file
from svp.pipeline.errors import DataError
from svp.pipeline.masks.rle import area
from svp.train.evaluation.boxes import box_around, box_figures, box_iou
from svp.train.evaluation.results import BoxResult, Row
from svp.train.metrics import box_metrics

pytest.importorskip("pyarrow")


def test_ref_l4_boxes_are_corner_and_size(tmp_path: Path) -> None:
    folder = ref_l4(tmp_path, l4(0, [5.5, 4.0, 10.0, 8.0]), l4(1, [0.0, 0.0, 50.0, 40.0]))
    source = open_dataset(folder, split="val", masks=True)
    assert [one.box for one in source.expressions] == [(5.5, 4, 15.5, 12), (0, 0, 50, 40)]
    assert area(source.expressions[1].mask) == H * W and len(source.images) == 1
    assert len(open_dataset(folder, split="test").expressions) == 1
    assert check(folder).usable


def test_ref_adv_has_its_photographs_in_the_rows(tmp_path: Path) -> None:
    rows = [adv(0, [1.0, 2.0, 11.0, 12.0], jpeg(10)), adv(1, [0.0, 0.0, 5.0, 5.0], jpeg(10)),
            adv(2, [0.0, 0.0, 5.0, 5.0], jpeg(200), file_name="oi_9.jpg")]  # fmt: skip
    folder = write_parquet(tmp_path / "ref-adv-s" / "data" / "train-00000.parquet", rows).parent
    source = open_dataset(folder, split="test")
    assert [one.box for one in source.expressions if one.sent_id == 0] == [(1, 2, 11, 12)]
    assert sorted(record.path for record in source.images) == [
        "data/train-00000.parquet/0.jpg#0", "data/train-00000.parquet/2.jpg#2",
    ]  # fmt: skip
    bright = {
        record.path[-1]: int(read_image(photo_file(source.image_root, record.path, "x"))[0, 0, 0])
        for record in source.images
    }
    assert bright["0"] < 20 and bright["2"] > 190
    assert check(folder).usable


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        (l4(2, [1.0, 1.0, 0.0, 4.0]), "row 2: box .* is empty"),
        (l4(2, [1.0, 1.0, 4.0]), "row 2: bbox .* is not four numbers"),
        (l4(2, [1.0, 1.0, float("nan"), 4.0]), "row 2: bbox .* is not four numbers of pixels"),
        (l4(2, [1.0, 1.0, 4.0, 4.0], file_name="../a.jpg"), "row 2: file name .* is refused"),
        (l4(2, [1.0, 1.0, 4.0, 4.0], height=41), "row 2: 'a.jpg' is 41x50, before 40x50"),
        (l4(2, [1.0, 1.0, 4.0, 4.0], caption=None), "row 2: expression None is not a string"),
    ],
)
def test_a_bad_row_is_named(wrong: dict[str, Any], rule: str, tmp_path: Path) -> None:
    good = [l4(0, [5.0, 4.0, 10.0, 8.0]), l4(1, [5.0, 4.0, 10.0, 8.0])]
    folder = ref_l4(tmp_path, *good, wrong)
    with pytest.raises(DataError, match=f"Ref-L4: 1 problem: ref-l4-val.parquet {rule}"):
        open_dataset(folder, split="val")
    assert len(open_dataset(folder, split="val", max_failures=1).expressions) == 2


def test_boxes_survive_conversion_and_no_export(tmp_path: Path) -> None:
    folder = ref_l4(tmp_path, l4(0, [5.5, 4.0, 10.0, 8.0]))
    source = open_dataset(folder, split="val")
    convert(folder, tmp_path / "tables")
    again = open_dataset(tmp_path / "tables", split="val", images=folder / "images")
    assert [e.box for e in again.expressions] == [(5.5, 4, 15.5, 12)]
    assert json.loads((tmp_path / "tables" / "masks.jsonl").read_text().splitlines()[0])["box"]
    with pytest.raises(DataError, match="has a box and no mask"):
        export_jsonl(source, tmp_path / "out.jsonl")


def test_box_around_and_iou_by_hand() -> None:
    mask = np.zeros((H, W), np.bool_)
    assert box_around(mask) is None and box_iou((0, 0, 4, 4), None) == 0
    mask[3:7, 10] = mask[5, 12:20] = True
    assert box_around(mask) == (10, 3, 20, 7)
    assert box_iou((10, 3, 20, 7), box_around(mask)) == 1
    assert box_iou((10.5, 3, 20.5, 7), box_around(mask)) == pytest.approx(9.5 / 10.5)
    assert box_iou((30, 30, 40, 40), box_around(mask)) == 0


def test_acc_and_macc_by_hand() -> None:
    """Ref-L4 counts IoU > t, Ref-Adv IoU >= t."""
    iou = np.array([0.5, 0.76, 0.95, 0.2])
    loose, strict = box_metrics(iou), box_metrics(iou, strict=True)
    assert (loose["Acc@0.5"], strict["Acc@0.5"]) == (3 / 4, 2 / 4)
    assert loose["Acc@0.75"] == strict["Acc@0.75"] == 2 / 4
    assert loose["Acc@0.9"] == strict["Acc@0.9"] == 1 / 4
    # Hits at 0.5, 0.55, ... 0.95: three, then two up to 0.75, then one; the last only with >=.
    assert loose["mAcc"] == pytest.approx((3 + 5 * 2 + 4 * 1) / 40)
    assert strict["mAcc"] == pytest.approx((2 + 5 * 2 + 3 * 1) / 40)


def row(number: int, box: tuple[float, float, float, float], iou: float, dataset: str) -> Row:
    return Row(
        repeat=0, dataset=dataset, image_id=1, ref_id=number, sent_id=number, text="x", path="a.jpg",
        height=400, width=400, intersection=0, union=4, target=4, tokens=1, has_seg=True,
        counts="PPYo1", classes=[], box=BoxResult(target=box, iou=iou),
    )  # fmt: skip


def test_figures_by_size_of_the_target() -> None:
    rows = [
        row(0, (0, 0, 127, 128), 0.6, "ref-l4"),
        row(1, (0, 0, 128, 128), 0.5, "ref-l4"),
        row(2, (0, 0, 256, 256), 0.8, "ref-l4"),
        row(3, (0, 0, 300, 256), 0.1, "ref-l4"),
    ]
    found = box_figures(rows)
    assert {name: figures["Acc@0.5"] for name, figures in found.items()} == {
        "all": 0.5, "small": 1, "medium": 0.5, "large": 0,
    }  # fmt: skip
    assert box_figures([one.model_copy(update={"box": None}) for one in rows]) == {}
    assert box_figures([row(1, (0, 0, 9, 9), 0.5, "ref-adv")])["all"]["Acc@0.5"] == 1
