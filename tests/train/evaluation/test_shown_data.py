"""Photographs and targets of a page, found by the record of the run that a result file lies in."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from svp.cli import main
from svp.pipeline.datasets import open_dataset
from svp.pipeline.masks.rle import area, encode
from svp.train.evaluation.page.shown_data import data_behind
from svp.train.evaluation.results import Header, Row, SplitSize, collect, write_results
from svp.train.trainer.run_data import FILE, RunData, Used

BOX = [5, 5, 25, 5, 25, 25, 5, 25]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A run of two sentences of a JSONL file; the answer to each is half of its target."""
    Image.new("RGB", (40, 30), "teal").save(tmp_path / "a.png")
    lines = [
        {"image": "a.png", "expression": f"cup {k}", "mask": [BOX], "split": "val"}
        for k in range(2)
    ]
    data = tmp_path / "own.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = open_dataset(data, split="val")
    found = np.zeros((30, 40), np.bool_)
    found[5:15, 5:25] = True
    rows = [
        Row(
            repeat=0, dataset=s.dataset, image_id=s.image_id, ref_id=s.ref_id, sent_id=s.sent_id,
            text=s.sent, path="a.png", height=30, width=40, intersection=200, union=400, target=400,
            tokens=3, has_seg=True, counts=encode(found).counts.decode(), classes=[],
        )
        for s in source.sentences
    ]  # fmt: skip
    size = SplitSize(dataset=rows[0].dataset, split_by="", split="val", images=1, sentences=2)
    header = Header(
        svp="0", commit="", protocol="full", generate=False, seed=0, repeats=1, order="area",
        splits=[size], digests={}, libraries={},
    )  # fmt: skip
    path = tmp_path / "run" / "eval" / "val-full-1.jsonl"
    write_results(path, collect(header, rows))
    used = Used(split="val", dataset=str(data), caches=())
    record = RunData(training=used).model_dump(mode="json")
    (tmp_path / "run" / FILE).write_text(json.dumps(record))
    return path


def rows_of(path: Path) -> list[Row]:
    return [Row.model_validate_json(line) for line in path.read_text().splitlines()[1:]]


def test_the_run_names_photographs_and_targets(results: Path, tmp_path: Path) -> None:
    shown = data_behind(results, "val")
    row = rows_of(results)[0]
    target = shown.targets(row)
    assert target is not None and area(target) == row.target
    assert shown.images is not None and (shown.images / row.path).is_file()
    page = tmp_path / "page"
    told = CliRunner().invoke(main, ["eval", "--from-results", str(results), "--page", str(page)])
    assert told.exit_code == 0, told.output
    html = (page / "index.html").read_text()
    assert html.count('class="target" d="M') == 3  # two sentences and the key
    assert (page / "assets" / "0001.webp").is_file()


def test_a_page_without_photographs_says_so(results: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.jsonl"
    alone.write_bytes(results.read_bytes())
    words = ["eval", "--from-results", str(alone), "--page", str(tmp_path / "page")]
    told = CliRunner().invoke(main, words)
    assert told.exit_code == 0
    assert "without photographs and targets: --images names their folder" in told.stderr


def test_another_target_is_not_shown(results: Path) -> None:
    shown = data_behind(results, "val")
    row = rows_of(results)[0]
    for other in ({"target": 399}, {"height": 31}, {"sent_id": 99}, {"dataset": "other"}):
        assert shown.targets(row.model_copy(update=other)) is None


def test_without_the_data_answers_are_shown_alone(results: Path, tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").unlink()
    for split in ("val", "testA"):
        shown = data_behind(results, split)
        assert shown.images is None and shown.targets(rows_of(results)[0]) is None
    alone = tmp_path / "alone.jsonl"
    alone.write_bytes(results.read_bytes())
    assert data_behind(alone, "val", tmp_path).images == tmp_path
