"""Overlap of training and evaluation images: reported always, dropped when asked."""

from pathlib import Path
from typing import Any

import pytest

from svp.pipeline.datasets import load, open_dataset
from svp.pipeline.datasets.detect import Options
from svp.pipeline.datasets.leakage import eval_images, overlaps
from svp.pipeline.errors import ConfigError

PLANS = {
    "refcoco": ("unc", {"train": [1, 2, 3], "val": [4], "testA": [5]}),
    "refcoco+": ("unc", {"train": [1, 4], "val": [6], "testB": [2]}),
    "refcocog": ("umd", {"train": [5, 6, 7], "test": [3]}),
}


@pytest.fixture
def root(worlds: Any, tmp_path: Path) -> Path:
    for name, (split_by, plan) in PLANS.items():
        worlds(plan).write_refer(tmp_path / name, split_by)
    return tmp_path


def test_matrix_counts_images_and_train_refs(root: Path) -> None:
    found = {(o.train, o.evaluation): (o.images, o.refs) for o in overlaps(load(root, Options()))}
    assert len(found) == 15  # 3 training sets x 5 evaluation splits, zeros included
    assert {pair: n for pair, n in found.items() if n != (0, 0)} == {
        ("refcoco/unc", "refcoco+/unc testB"): (1, 2),
        ("refcoco/unc", "refcocog/umd test"): (1, 2),
        ("refcoco+/unc", "refcoco/unc val"): (1, 2),
        ("refcocog/umd", "refcoco/unc testA"): (1, 2),
        ("refcocog/umd", "refcoco+/unc val"): (1, 2),
    }
    assert list(found) == sorted(found)


def test_off_keeps_all_and_reports_on_drops_exactly_the_listed(root: Path) -> None:
    off = open_dataset(root, split="train")
    assert [r.image_id for r in off.images] == [1, 2, 3, 4, 5, 6, 7]
    assert sum(notice.startswith("leak: ") for notice in off.notices) == 5
    on = open_dataset(root, split="train", exclude_eval_images=True)
    assert [r.image_id for r in on.images] == [1, 7]
    assert {e.image_id for e in on.expressions} == {1, 7}
    assert set(on.annotations) == {(row.dataset, row.ann_id) for row in on.sentences}
    assert "exclude_eval_images: dropped 5 images and 10 refs" in on.notices[-1]


def test_one_set_looks_at_its_siblings(root: Path) -> None:
    source = open_dataset(root / "refcoco", split="train", exclude_eval_images=True)
    assert [r.image_id for r in source.images] == [1]
    alone = open_dataset("refcoco+", root=root, split="train", exclude_eval_images=True)
    assert [r.image_id for r in alone.images] == [1]


def test_absent_sets_are_named(worlds: Any, tmp_path: Path) -> None:
    folder = worlds({"train": [1, 2], "val": [2]}).write_refer(tmp_path / "refcoco")
    source = open_dataset(folder, split="train", exclude_eval_images=True)
    assert [r.image_id for r in source.images] == [1]
    assert any("no refcoco+, refcocog here" in notice for notice in source.notices)


def test_load_order_does_not_matter(root: Path) -> None:
    forward = load("refcoco,refcoco+,refcocog", Options(root=root))
    backward = load("refcocog,refcoco+,refcoco", Options(root=root))
    assert overlaps(forward) == overlaps(backward)
    assert eval_images(forward) == eval_images(backward) == {2, 3, 4, 5, 6}
    one = open_dataset("refcoco,refcoco+,refcocog", root=root, split="train")
    two = open_dataset("refcocog,refcoco+,refcoco", root=root, split="train")
    assert one.images == two.images and one.sentences == two.sentences


def test_only_for_training(root: Path) -> None:
    with pytest.raises(ConfigError, match="for --split train, not val"):
        open_dataset(root, split="val", exclude_eval_images=True)
