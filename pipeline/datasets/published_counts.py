"""Published sizes of the RefCOCO sets, to detect wrong or truncated split files.

Images and refs: TFDS `ref_coco` README. Sentences: FlagEval for refcoco; the others are commonly
stated but unconfirmed, so they only warn. None = not known.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ..display import counted
from .tables import Dataset


@dataclass(frozen=True, slots=True)
class Count:
    """Size of one split."""

    images: int
    refs: int
    sentences: int | None


COUNTS: Mapping[tuple[str, str], Mapping[str, Count]] = {
    ("refcoco", "unc"): {
        "train": Count(16_994, 42_404, 120_624),
        "val": Count(1_500, 3_811, 10_834),
        "testA": Count(750, 1_975, 5_657),
        "testB": Count(750, 1_810, 5_095),
    },
    ("refcoco", "google"): {
        "train": Count(19_213, 40_000, None),
        "val": Count(4_559, 5_000, None),
        "test": Count(4_527, 5_000, None),
    },
    ("refcoco+", "unc"): {
        "train": Count(16_992, 42_278, 120_191),
        "val": Count(1_500, 3_805, 10_758),
        "testA": Count(750, 1_975, 5_726),
        "testB": Count(750, 1_798, 4_889),
    },
    ("refcocog", "umd"): {
        "train": Count(21_899, 42_226, 80_512),
        "val": Count(1_300, 2_573, 4_896),
        "test": Count(2_600, 5_023, 9_602),
    },
    ("refcocog", "google"): {
        "train": Count(24_698, 44_822, None),
        "val": Count(4_650, 5_000, None),
    },
}
SPLITS: Mapping[tuple[str, str], frozenset[str]] = {
    key: frozenset(splits) for key, splits in COUNTS.items()
}
ANY_SPLITS = frozenset({"train", "val", "test", "testA", "testB"})
# RefCLEF (ReferIt) names a ref's split after all tests it is in: testAB is in testA and in testB
# (lichengunc/refer refer.py, getRefIds).
_CLEF_TESTS = ("test", "testA", "testB", "testC", "testAB", "testAC", "testBC", "testABC")
CLEF_SPLITS = frozenset({"train", "val", *_CLEF_TESTS})
CLEF_HOLDS: Mapping[str, frozenset[str]] = {
    "test": frozenset(_CLEF_TESTS),
    **{f"test{x}": frozenset(name for name in _CLEF_TESTS if x in name) for x in "ABC"},
}
EVAL_SPLITS = (ANY_SPLITS | CLEF_SPLITS | {"miniv"}) - {"train"}  # miniv: PhraseCut's


def count(dataset: Dataset) -> dict[str, Count]:
    """Images, refs and sentences per split, by name of split."""
    return {
        split: Count(
            len({row.image_id for row in rows}), len({row.ref_id for row in rows}), len(rows)
        )
        for split, rows in sorted(dataset.splits().items())
    }


def compare(dataset: Dataset) -> tuple[list[str], list[str]]:
    """(errors, notices) of the dataset's sizes against the published ones.

    A set with fewer than half of the published refs or images is a sample: one notice. Above that
    it claims to be complete, and any difference in images or refs is an error, as is one in
    refcoco's sentences; the unconfirmed sentence counts are notices.
    """
    published = COUNTS.get((dataset.name, dataset.split_by))
    if published is None:
        return [], []
    found = count(dataset)
    have, want = _total(found), _total(published)
    if 2 * have.refs < want.refs or 2 * have.images < want.images:
        part = (
            f"{have.images:,} of {counted(want.images, 'image')}, {have.refs:,} of "
            f"{counted(want.refs, 'ref')}"
        )
        return [], [f"{dataset.title} is a sample: {part}; counts are not checked"]
    errors: list[str] = []
    notices: list[str] = []
    for split, size in published.items():
        _compare_split(dataset, split, found.get(split, Count(0, 0, 0)), size, errors, notices)
    return errors, notices


def _total(sizes: Mapping[str, Count]) -> Count:
    return Count(sum(c.images for c in sizes.values()), sum(c.refs for c in sizes.values()), None)


def _compare_split(
    dataset: Dataset, split: str, got: Count, want: Count, errors: list[str], notices: list[str]
) -> None:
    where = f"{dataset.title} {split}"
    if got.images != want.images:
        errors.append(f"{where}: {counted(got.images, 'image')}, published {want.images}")
    if got.refs != want.refs:
        errors.append(f"{where}: {counted(got.refs, 'ref')}, published {want.refs}")
    if want.sentences is not None and got.sentences != want.sentences:
        line = f"{where}: {counted(got.sentences or 0, 'sentence')}, published {want.sentences}"
        (errors if dataset.name == "refcoco" else notices).append(line)
