"""What an evaluation leaves out is counted and named; what is not used is not looked at."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from support.loader_world import make_source, write_cache
from svp.pipeline.errors import DataError
from svp.pipeline.precompute.launch import LARGE, _about_large
from svp.train.evaluation.protocols import examples, gather
from svp.train.evaluation.results import Header
from svp.train.evaluation.summary import EvalReport, joined
from svp.train.figures.superpixel_sources import _require_same


def test_quarantined_images_and_bad_masks(tmp_path: Path, logged: pytest.LogCaptureFixture) -> None:
    cache = write_cache(tmp_path / "cache", range(1, 9), bad=[3])
    source = make_source("aa", range(1, 9))
    keys = [("aa", 30), ("aa", 50)]  # of the image in quarantine, and of a good one
    spoilt = {key: replace(source.annotations[key], segmentation=[[1, 2, 3, 4]]) for key in keys}
    bad = replace(source, annotations={**source.annotations, **spoilt})
    found = gather(bad, [cache])
    assert [item.entry.image_id for item in found.items] == [1, 2, 4, 5, 6, 7, 8]
    assert found.left_out == {"bad records": 1, "images in quarantine": 1}
    assert found.quarantined == {3: "truncated"}
    assert any("image 3 left out" in line and "truncated" in line for line in logged.messages)
    assert any("aa sentence 500: " in line and "4 numbers" in line for line in logged.messages)
    assert not any("sentence 300" in line for line in logged.messages)
    assert len(examples(bad, [cache], max_failures=2)) == 7
    with pytest.raises(DataError, match="1 bad record and 1 image in quarantine, more than --max"):
        examples(bad, [cache], max_failures=1)
    whole = gather(source, [write_cache(tmp_path / "whole", range(1, 9))])
    assert whole.left_out == {}


def test_a_report_says_it_and_sums_it_over_splits() -> None:
    header = Header(
        svp="0", commit="", protocol="full", generate=False, seed=0, repeats=1, order="area",
        splits=[], digests={}, libraries={}, left_out={"bad records": 2},
    )  # fmt: skip
    other = header.model_copy(update={"left_out": {"bad records": 1, "too long": 3}})
    whole = joined([EvalReport(header, []), EvalReport(other, [])])
    assert whole.header.left_out == {"bad records": 3, "too long": 3}
    assert "left out: 3 bad records, 3 too long" in whole.lines()
    assert whole.to_json()["header"]["left_out"] == whole.header.left_out  # type: ignore[index]
    old = header.model_dump(mode="json")
    del old["left_out"]  # a result file of an older svp
    assert Header.model_validate_json(json.dumps(old)).left_out == {}


def test_a_cache_beside_must_be_of_the_same_photographs(tmp_path: Path) -> None:
    class Row:
        image_id = 2

    own = write_cache(tmp_path / "own", range(1, 4))
    _require_same(own, write_cache(tmp_path / "same", range(2, 5)), [Row()])  # type: ignore[list-item]
    with pytest.raises(DataError, match=r"--beside .*image 2 .* is not in it"):
        _require_same(own, write_cache(tmp_path / "other", range(3, 5)), [Row()])  # type: ignore[list-item]
    changed = write_cache(tmp_path / "changed", range(1, 4))
    images = tuple(image._replace(xxh3="cd" * 8) for image in changed.plan.images)
    changed.plan = replace(changed.plan, images=images)
    with pytest.raises(DataError, match=r"--beside .*image 2 .*is d/2.png there|'d/2.png' there"):
        _require_same(own, changed, [Row()])  # type: ignore[list-item]


def test_large_photographs_are_told_before_the_hours() -> None:
    source = make_source("aa", [1, 2])
    assert _about_large(source) == []
    wide = replace(source.images[0], height=5000, width=LARGE // 5000 + 1)
    (line,) = _about_large(replace(source, images=(wide, source.images[1])))
    assert "1 photograph" in line and "rle_overflow" in line and "d/1.png" in line
