"""Gallery of an evaluation page: which sentences, on which shelf, once each."""

from pathlib import Path

import numpy as np
import pytest

from svp.pipeline.masks.rle import encode
from svp.train.evaluation.page.gallery import SHOWN, few, gallery
from svp.train.evaluation.page.page import BANDS, band
from svp.train.evaluation.page.page_photos import Photographs
from svp.train.evaluation.page.shown_data import nothing
from svp.train.evaluation.results import Row


def row(image: int, number: int, iou: float, classes: tuple[str, ...] = ()) -> Row:
    """A sentence with this IoU: of a target of 50 pixels, some are found."""
    pixels = round(50 * iou)
    mask = (np.arange(100) < pixels).reshape(10, 10)
    return Row(
        repeat=0, dataset="d", image_id=image, ref_id=number, sent_id=number, text=f"cup {number}",
        path=f"{image}.png", height=10, width=10, intersection=pixels, union=50, target=50,
        tokens=9, has_seg=True, counts=encode(mask).counts.decode(), classes=list(classes),
    )  # fmt: skip


@pytest.fixture
def rows() -> list[Row]:
    """Two photographs of 50 sentences with IoU 0 to 0.98; every tenth is of the class `position`."""
    return [row(k % 2, k, k / 100, ("position",) if k % 10 == 0 else ()) for k in range(0, 100, 1)]


def test_shelves_hold_the_worst_and_the_best(rows: list[Row], tmp_path: Path) -> None:
    ious = np.array([one.iou for one in rows])
    shelves = {
        s.title: s.cards for s in gallery(rows, ious, 1, Photographs(tmp_path, None), nothing, 0)
    }
    assert list(shelves)[:3] == ["Worst", "Best", "Random sample"]
    assert max(card.iou for card in shelves["Worst"]) < 0.1, "though they are of two photographs"
    assert min(card.iou for card in shelves["Best"]) > 0.9
    assert len(shelves["Worst"]) == len(shelves["Best"]) == SHOWN
    position = shelves["Words: position"]
    assert position and all("words: position" in card.slices for card in position)
    every = [card for cards in shelves.values() for card in cards]
    assert len({card.anchor for card in every}) == len(every), "a sentence stands once"
    assert all(card.iou == pytest.approx(rows[int(card.sentence[4:])].iou) for card in every)


def test_photographs_differ_while_the_order_allows_it(rows: list[Row]) -> None:
    many = [row(k // 2, k, k / 100) for k in range(100)]
    assert few(many, range(100), 8) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert few(rows, range(100), 8) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert few(rows[:3], range(3), 8) == [0, 1, 2]


def test_bands_cover_all_values() -> None:
    assert [band(x) for x in (0.0, 0.2499, 0.25, 0.5, 0.74, 0.75, 1.0)] == [
        BANDS[k] for k in (0, 0, 1, 2, 2, 3, 3)
    ]
