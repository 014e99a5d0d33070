"""Masks as text: what is read of an answer, and what one that cannot be read scores."""

import json

import numpy as np
import pytest

from svp.integrations.mask_text import (
    answer_text,
    as_json,
    count_pixels,
    counts_of,
    question,
    read_answer,
)
from svp.pipeline.masks.rle import decode, encode
from svp.train.metrics import metrics, target_accuracy

LEFT, RIGHT = np.zeros((2, 4, 6), np.bool_)
LEFT[1:3, 0:2], RIGHT[0:2, 4:6] = True, True
NOTHING = encode(np.zeros((4, 6), np.bool_))


def test_several_masks_are_one_answer() -> None:
    masks = [as_json(encode(LEFT)), as_json(encode(RIGHT))]
    for text in (
        json.dumps({"masks": masks, "scores": [0.5, 0.25]}),
        json.dumps(masks),
        f"Here they are:\n```json\n{json.dumps({'masks': masks})}\n```",
    ):
        found = read_answer(text, 4, 6)
        assert found is not None
        np.testing.assert_array_equal(decode(found), LEFT | RIGHT)


def test_polygons_are_read_too() -> None:
    found = read_answer('{"masks": [[0, 1, 2, 1, 2, 3, 0, 3]]}', 4, 6)
    assert found == encode(LEFT)


@pytest.mark.parametrize(
    "text",
    ["", "no such object", "[1, 2", '{"masks": 3}', '{"boxes": []}', '{"masks": [{"size": [4, 6]}]}',
     json.dumps({"masks": [as_json(encode(LEFT.T))]}), '{"masks": [[1, 2]]}', "[" * 10_000 + "]"],
)  # fmt: skip
def test_what_cannot_be_read_finds_nothing_and_rejects_nothing(text: str) -> None:
    assert read_answer(text, 4, 6) is None
    missed = counts_of([count_pixels(text, encode(LEFT), None)])
    assert metrics(missed)["gIoU"] == 0 and target_accuracy(missed)[1] == 0
    assert target_accuracy(counts_of([count_pixels(text, NOTHING, None)]))[0] == 0


def test_counts_leave_out_the_ignored_region() -> None:
    both = answer_text(encode(LEFT | RIGHT))
    assert count_pixels(both, encode(LEFT), None) == (4, 8, 4)
    assert count_pixels(both, encode(LEFT), encode(RIGHT)) == (4, 4, 4)


def test_no_mask_is_the_answer_to_an_empty_target() -> None:
    counts = counts_of([count_pixels(text, NOTHING, None)
                        for text in ('{"masks": []}', answer_text(NOTHING), answer_text(encode(LEFT)))])  # fmt: skip
    assert target_accuracy(counts)[0] == pytest.approx(2 / 3)


def test_the_question_names_expression_and_size() -> None:
    asked = question('the "left" cup', 4, 6)
    assert 'the "left" cup' in asked and '"size": [4, 6]' in asked
