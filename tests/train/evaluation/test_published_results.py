"""The paper's numbers: copied right (checked by what the paper says of them) and not misused."""

import pytest

from svp.train.evaluation.paper_numbers import COLUMNS, TABLE_6, TABLES, beside


def test_every_row_has_eight_columns() -> None:
    for table in TABLES.values():
        assert len({row.name for row in table.rows}) == len(table.rows)
        for row in table.rows:
            assert len(row.values) == len(COLUMNS) == 8
            assert all(value is None or 45 < value < 90 for value in row.values)


def test_runs_that_the_paper_shares_between_tables_agree() -> None:
    three = TABLES["3"]
    svp = three.rows[-1].values
    for number, name in (
        ("1", "SVP"),
        ("5", "w/ Sharing"),
        ("7", "DINOv2 last layer"),
        ("C", "Semantic superpixel w/ SAM"),
    ):
        assert TABLES[number].row(name).values == svp
    assert three.rows[4].values == TABLES["4"].row("Mask-Att.").values
    assert three.rows[4].values == TABLES["5"].row("w/o SSA").values
    assert three.rows[3].values == TABLES["4"].row("w/o SSPE").values
    assert three.rows[2].values == TABLES["7"].row("CLIP last layer").values


def test_means_of_table_6_are_those_of_table_3() -> None:
    rows = (TABLES["3"].rows[1], TABLES["3"].rows[-1])
    for cost, row, mean in zip(TABLE_6, rows, (77.6, 77.5), strict=True):
        values = [value for value in row.values if value is not None]
        assert sum(values) / 8 == pytest.approx(mean, abs=0.051)
        assert row.tokens == cost.tokens


def test_beside_the_published_split() -> None:
    found = beside("refcoco", "unc", "testA", 750)
    assert ("SVP", "gIoU", 83.1) in {(p.name, p.metric, p.value) for p in found}
    assert ("SVP", "cIoU", 82.9) in {(p.name, p.metric, p.value) for p in found}
    assert {p.value for p in found if p.source.startswith("groundingLMM")} == {83.40, 83.17}


@pytest.mark.parametrize(
    "split",
    [
        ("refcoco", "unc", "val", 300),  # generated scenes, or --limit
        ("refcoco", "google", "val", 1500),
        ("refcoco", "unc", "train", 16_994),
        ("mine", "", "val", 1500),
    ],
)
def test_nothing_beside_another_split(split: tuple[str, str, str, int]) -> None:
    assert beside(*split) == []
