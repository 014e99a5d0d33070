"""Published sizes: complete sets must match, samples are told apart from cut files."""

from pathlib import Path

import pytest

from svp.pipeline.datasets import published_counts
from svp.pipeline.datasets.published_counts import COUNTS, Count, compare, count
from svp.pipeline.datasets.refer import with_counts
from svp.pipeline.datasets.tables import Dataset, Sentence
from svp.pipeline.errors import DataError


def complete(name: str, split_by: str, plan: dict[str, Count]) -> Dataset:
    """A set of exactly these sizes, sentences and refs spread over images."""
    rows: list[Sentence] = []
    ref = sent = image = 0
    for split, size in plan.items():
        total = size.sentences or size.refs
        for index in range(total):
            ids = (image + index % size.images, 0, ref + index % size.refs, sent + index)
            rows.append(Sentence(name, split_by, split, *ids, "x"))
        image, ref, sent = image + size.images, ref + size.refs, sent + total
    return Dataset("refer", name, split_by, Path("."), (), tuple(rows))


Plans = dict[tuple[str, str], dict[str, Count]]


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Plans:
    """The published table at a hundredth of its size."""

    def shrink(size: Count) -> Count:
        sentences = None if size.sentences is None else size.sentences // 100
        return Count(size.images // 100, size.refs // 100, sentences)

    small = {key: {name: shrink(c) for name, c in plan.items()} for key, plan in COUNTS.items()}
    monkeypatch.setattr(published_counts, "COUNTS", small)
    return small


@pytest.mark.parametrize("key", sorted(COUNTS))
def test_a_complete_set_passes(key: tuple[str, str], published: Plans) -> None:
    made = complete(*key, published[key])
    assert compare(made) == ([], [])
    found = count(made)
    assert {split: (c.images, c.refs) for split, c in found.items()} == {
        split: (c.images, c.refs) for split, c in published[key].items()
    }


def test_sums_of_the_spec() -> None:
    ours = [COUNTS[key]["train"] for key in (("refcoco", "unc"), ("refcoco+", "unc"))]
    ours.append(COUNTS["refcocog", "umd"]["train"])
    assert sum(c.images for c in ours) == 55_885
    assert sum(c.sentences or 0 for c in ours) == 321_327


def test_a_cut_file_is_an_error_unless_allowed(published: Plans) -> None:
    plan = dict(published["refcoco", "unc"])
    del plan["testB"]
    made = complete("refcoco", "unc", plan)
    with pytest.raises(DataError, match="testB: 0 images, published 7; .*--allow-counts"):
        with_counts(made, [], allow_counts=False)
    allowed = with_counts(made, ["first"], allow_counts=True)
    assert allowed.notices[0] == "first" and "published 7" in allowed.notices[1]


@pytest.mark.parametrize(
    ("name", "split_by", "errors"), [("refcoco", "unc", 1), ("refcoco+", "unc", 0)]
)
def test_sentence_counts_are_errors_only_where_they_are_sure(
    name: str, split_by: str, errors: int, published: Plans
) -> None:
    plan = dict(published[name, split_by])
    val = plan["val"]
    plan["val"] = Count(val.images, val.refs, (val.sentences or 0) + 1)
    found, notices = compare(complete(name, split_by, plan))
    assert (len(found), len(notices)) == (errors, 1 - errors)


def test_a_sample_is_a_notice_and_other_names_are_not_judged() -> None:
    """Against the real table."""
    small = {"train": Count(3, 5, 9)}
    errors, notices = compare(complete("refcoco", "unc", small))
    assert errors == [] and "sample: 3 of 19,994 images, 5 of 50,000 refs" in notices[0]
    assert compare(complete("scenes", "unc", small)) == ([], [])
