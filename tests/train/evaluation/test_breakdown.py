"""Slices of results: sizes relative to the photograph, word classes, superpixel bounds."""

import json
from pathlib import Path

import pytest

from svp.pipeline.errors import DataError
from svp.train.evaluation.breakdown import breakdown, size_of
from svp.train.evaluation.results import Bounds, Header, Results, Row
from svp.train.evaluation.word_classes import known_classes, word_classes

HEADER = Header(
    svp="0", commit="", protocol="full", generate=False, seed=0, repeats=1, order="area",
    splits=[], digests={}, libraries={},
)  # fmt: skip


def row(sent_id: int, iou: float, *, share: float = 0.1, classes: tuple[str, ...] = (),
        bounds: Bounds | None = None, side: int = 100) -> Row:  # fmt: skip
    target = round(share * side * side)
    return Row(
        repeat=0, dataset="d", image_id=1, ref_id=1, sent_id=sent_id, text="x", path="x.png",
        height=side, width=side, intersection=round(iou * target), union=target, target=target,
        tokens=5, has_seg=True, counts="", classes=list(classes), bounds=bounds,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("left guy", ["position"]),
        ("the man to the left of the red car", ["attribute", "relation"]),
        ("bottom right corner", ["position"]),
        ("girl on the right", ["position"]),
        ("person in front of the bus", ["relation"]),
        ("front bus", ["position"]),
        ("second zebra from left", ["position"]),
        ("biggest elephant", ["size"]),
        ("woman wearing white", ["attribute", "relation"]),
        ("Man in the middle", ["position"]),
        ("bowl on the table", ["relation"]),
        ("umbrella", []),
        ("small blue striped disc", ["attribute", "size"]),
    ],
)
def test_word_classes(text: str, classes: list[str]) -> None:
    assert word_classes(text) == classes


def test_words_agree_with_the_scene_generators_own_classes() -> None:
    from svp.pipeline.datasets.scenes.make import make_scene

    phrases = [p for index in range(12) for p in make_scene(5, index, "val").phrases]
    agree = sum(set(word_classes(p.text)) >= set(p.classes) - {"attribute"} for p in phrases)
    assert len(phrases) > 40 and agree / len(phrases) > 0.9


def test_known_classes_of_generated_scenes(tmp_path: Path) -> None:
    (tmp_path / "refcoco").mkdir()
    assert known_classes(tmp_path / "refcoco") is None
    file = tmp_path / "word_classes.json"
    file.write_text(json.dumps({"sentences": {"7": ["size"], "8": []}}))
    assert known_classes(tmp_path / "refcoco") == {7: ["size"], 8: []}
    file.write_text(json.dumps({"sentences": {"7": ["outline", "size"]}}))
    assert known_classes(tmp_path) == {7: ["outline", "size"]}
    many = json.dumps({"sentences": {str(k): [f"class {k}"] for k in range(41)}})
    for wrong in (
        '{"sentences": {"x": []}}', "[]", '{"sentences": {"7": "size"}}', '{"sentences": {"7": [1]}}',
        '{"sentences": {"7": ["<b>"]}}', many, "{",
    ):  # fmt: skip
        file.write_text(wrong)
        with pytest.raises(DataError, match="word_classes.json"):
            known_classes(tmp_path)


def test_every_named_class_is_a_slice() -> None:
    rows = [
        row(1, 1.0, classes=("outline",)),
        row(2, 0.0, classes=("binding", "size")),
        row(3, 0.5),
    ]
    words = [
        (one.name, one.sentences)
        for one in breakdown(Results(HEADER, rows))
        if one.group == "words"
    ]
    assert words == [("size", 1), ("binding", 1), ("outline", 1), ("plain", 1)]


def test_scenes_of_world_2_can_be_sliced(tmp_path: Path) -> None:
    from svp.pipeline.datasets.scenes.write import write_scenes

    write_scenes(tmp_path / "scenes", images=10, seed=0, world=2)
    found = known_classes(tmp_path / "scenes" / "refcoco")
    assert found is not None and {"outline", "binding"} & {
        name for one in found.values() for name in one
    }


def test_size_is_a_share_of_the_photograph() -> None:
    assert [size_of(row(1, 1, share=s)) for s in (0.003, 0.004, 0.029, 0.031)] == [
        "small", "medium", "medium", "large",
    ]  # fmt: skip
    assert size_of(row(1, 1, share=0.02, side=64)) == size_of(row(1, 1, share=0.02, side=800))


def test_slices_average_their_own_sentences() -> None:
    rows = [
        row(1, 1.0, share=0.001, side=1000, classes=("position",)),
        row(2, 0.5, share=0.1, classes=("position", "size"),
            bounds=Bounds(single=0.4, union=0.6, pieces=3)),
        row(3, 0.0, share=0.2),
    ]  # fmt: skip
    found = {(s.group, s.name): s for s in breakdown(Results(HEADER, rows))}
    assert found["words", "position"].values["gIoU"] == 0.75
    assert found["words", "plain"].sentences == 1
    assert found["object size", "large"].sentences == 2
    assert "relation" not in {name for _, name in found}
    assert not any("union" in group for group, _ in found)  # not known for all


def test_slices_by_superpixels_count_every_sentence_once() -> None:
    values = [(0.0, 0), (0.5, 1), (0.74, 2), (0.75, 3), (0.9, 4), (1.0, 9)]
    rows = [
        row(k, 0.5, bounds=Bounds(single=0.0, union=union, pieces=pieces))
        for k, (union, pieces) in enumerate(values)
    ]
    found = breakdown(Results(HEADER, rows))
    for group, counts in (
        ("IoU of the best union", [1, 2, 1, 2]),
        ("superpixels in the best union", [1, 1, 2, 2]),
    ):
        assert [s.sentences for s in found if s.group == group] == counts


def test_an_empty_target_is_no_small_object() -> None:
    """It stands in a slice of its own, and in none about a target's size or its superpixels."""
    exact = Bounds(single=0.0, union=1.0, pieces=0)
    rows = [
        row(1, 0.0, share=0.0, bounds=exact, classes=("size",)),
        row(2, 0.5, share=0.0001, bounds=Bounds(single=0.2, union=0.3, pieces=2)),
    ]
    rows[1] = rows[1].model_copy(update={"target": 1, "union": 2, "intersection": 1})
    found = {(s.group, s.name): s.sentences for s in breakdown(Results(HEADER, rows))}
    assert found["empty target", "nothing to find"] == 1 and found["object size", "small"] == 1
    assert found["words", "size"] == 1
    assert found["IoU of the best union", "below 0.5"] == 1
    assert ("IoU of the best union", "0.9 or more") not in found
    assert ("superpixels in the best union", "none") not in found
    assert size_of(rows[0]) == "" and size_of(rows[1]) == "small"
    from svp.train.evaluation.summary import _bounds

    assert _bounds(rows)["best union of superpixels"] == pytest.approx(0.3)
    assert _bounds(rows[:1]) == {}
