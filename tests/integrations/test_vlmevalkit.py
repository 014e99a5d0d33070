"""`svp data tsv`: VLMEvalKit's columns, and its answers scored as `svp eval` scores masks."""

import base64
import csv
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageOps

from support.asked_set import SIZE, answered
from svp.cli import main
from svp.integrations.mask_text import answer_text, read_answer
from svp.integrations.vlmevalkit import evaluate
from svp.pipeline.datasets import Source
from svp.pipeline.errors import DataError
from svp.pipeline.masks.rle import decode
from svp.train.evaluation.results import read_results
from svp.train.metrics import metrics


@pytest.fixture
def rows(dataset: Path, tmp_path: Path) -> list[dict[str, str]]:
    result = CliRunner().invoke(main, ["data", "tsv", str(dataset), "--out", str(tmp_path / "tsv")])
    assert result.exit_code == 0, result.output
    (file,) = (tmp_path / "tsv").iterdir()
    assert file.name == "val_val.tsv"
    csv.field_size_limit(sys.maxsize)
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t"))


def test_rows_are_what_an_image_data_set_reads(rows: list[dict[str, str]], source: Source) -> None:
    """Its rules: unique indices; an image is base64 or, up to 64 characters, another row's index."""
    by_index = {row["index"]: row for row in rows}
    assert len(by_index) == len(rows) == len(source.sentences) == 5
    shown = []
    for row in rows:
        first = by_index[row["image"]] if len(row["image"]) <= 64 else row
        assert len(first["image"]) > 64
        picture = Image.open(io.BytesIO(base64.b64decode(first["image"])))
        assert picture.size == SIZE[::-1] and picture.getexif().get(0x0112, 1) == 1
        shown.append((row["image_path"], np.asarray(picture.convert("RGB")).tobytes()))
        assert row["expression"] in row["question"] and row["answer"].startswith('{"masks"')
    assert len(set(shown)) == len({path for path, _ in shown}) == 2
    turned = ImageOps.exif_transpose(Image.open(source.image_root / "turned.jpg")).convert("RGB")
    assert np.asarray(turned).tobytes() in {pixels for _, pixels in shown}
    masks = {row["sent_id"]: read_answer(row["answer"], *SIZE) for row in rows}
    for sentence in source.sentences:
        mask = masks[str(sentence.sent_id)]
        wanted = source.good_masks[sentence.dataset, sentence.ann_id]
        assert mask is not None
        np.testing.assert_array_equal(decode(mask), decode(wanted))


def test_figures_are_those_of_the_result_file(
    rows: list[dict[str, str]], source: Source, results: Path
) -> None:
    said = {}
    for sentence in source.sentences:
        target = source.good_masks[sentence.dataset, sentence.ann_id]
        said[str(sentence.sent_id)] = answer_text(answered(target))
    found = evaluate([{**row, "prediction": said[row["sent_id"]]} for row in rows])
    wanted = metrics(read_results(results).counts)
    assert {name: found[name] for name in wanted} == wanted and 0.5 < found["gIoU"] < 1
    assert (found["N-acc"], found["T-acc"]) == (1, 1)
    perfect = evaluate([{**row, "prediction": row["answer"]} for row in rows])
    assert perfect["gIoU"] == perfect["cIoU"] == 1
    with pytest.raises(DataError, match="row 0: the target"):
        evaluate([{**rows[0], "answer": "nan", "prediction": ""}])


def test_one_split_alone_and_photographs_without_expressions(dataset: Path, tmp_path: Path) -> None:
    for words, message in (
        ([str(dataset), "--split", "test"], "no split 'test'"),
        ([str(dataset.parent / "plain.png")], ""),
    ):
        out = tmp_path / "none"
        result = CliRunner().invoke(main, ["data", "tsv", *words, "--out", str(out)])
        assert isinstance(result.exception, SystemExit) and message in result.output
        assert not out.exists()
