"""Where a model may decide that nothing is meant, by rows made by hand."""

import pytest

from svp.train.evaluation.operating_point import operating_point
from svp.train.evaluation.results import Row


def rows(target: int, *chances: float | None) -> list[Row]:
    return [
        Row(
            repeat=0, dataset="a", image_id=1, ref_id=1, sent_id=k, text="b", path="c.png", height=4,
            width=4, intersection=0, union=target, target=target, tokens=1, has_seg=True,
            counts="`0", classes=[], rejection=chance,
        )
        for k, chance in enumerate(chances)
    ]  # fmt: skip


def test_one_in_twenty_of_the_targets_is_rejected_at_most() -> None:
    """Ties count half in the area under the curve."""
    meant = rows(4, *(k / 100 for k in range(40)))  # of which 0.38 and 0.39 may be rejected
    nothing = rows(0, 0.9, 0.375, 0.37, 0.10)
    area = (40 + 38 + 37.5 + 10.5) / 160
    wanted = {"AUC": area, "above": 0.37, "N-acc": 0.5, "T-acc": 0.95}
    assert operating_point([*nothing, *meant]) == pytest.approx(wanted)
    assert operating_point(meant) == operating_point(nothing) == {}
    assert operating_point([*rows(4, None, None), *rows(0, None)]) == {}
