"""`svp cache export` and `svp answers`: the other programs' own figures are ours."""

import base64
import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import svp
from support.asked_set import SIZE, answered
from support.eval_world import write_cache
from svp.cli import main
from svp.pipeline.datasets import Source
from svp.pipeline.masks.rle import decode
from svp.train.evaluation.results import collect, read_results, write_results
from svp.train.metrics import THRESHOLDS, metrics

HEX = set("0123456789abcdef")


def run(*words: object) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


def refused(*words: object) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert isinstance(result.exception, SystemExit) and result.exit_code in (1, 2, 3), result.output
    return result.output


def coco(folder: Path) -> tuple[COCO, COCO]:
    truth = COCO(folder / "instances.json")
    return truth, truth.loadRes(str(folder / "results.json"))


def samples(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "samples.json").read_text())["samples"]
    return found


def pasted(detection: dict[str, Any], height: int, width: int) -> NDArray[np.bool_]:
    """The detection as FiftyOne draws it: its mask in its box."""
    packed = base64.b64decode(detection["mask"]["$binary"]["base64"])
    part = np.load(io.BytesIO(zlib.decompress(packed)))
    x, y, w, h = np.array(detection["bounding_box"]) * [width, height, width, height]
    assert part.dtype == np.bool_ and part.shape == (round(h), round(w))
    whole = np.zeros((height, width), np.bool_)
    whole[round(y) : round(y + h), round(x) : round(x + w)] = part
    return whole


def types(folder: Path) -> dict[str, str]:
    """Field -> its type, of a sample and of `a/b` a detection's."""
    about = json.loads((folder / "metadata.json").read_text())
    found = {}
    for field in about["sample_fields"]:
        found[field["name"]] = field["ftype"].rsplit(".", 1)[1]
        for listed in field["fields"]:
            for own in listed["fields"]:
                found[f"{field['name']}/{own['name']}"] = own["ftype"].rsplit(".", 1)[1]
    return found


def test_recall_of_coco_is_our_precision(dataset: Path, results: Path, tmp_path: Path) -> None:
    said = run("answers", results, "--dataset", dataset, "--to", "coco", "--out", tmp_path / "coco")
    assert "1 of 5 answers is an empty mask: without an entry in results.json" in said
    truth, found = coco(tmp_path / "coco")
    judge = COCOeval(truth, found, "segm")
    judge.params.iouThrs = np.array(THRESHOLDS)
    judge.evaluate()
    judge.accumulate()
    rows = read_results(results)
    targets = rows.counts.take(rows.counts.target > 0)
    wanted = [metrics(targets)[f"P@{threshold}"] for threshold in THRESHOLDS]
    np.testing.assert_allclose(judge.eval["recall"][:, 0, 0, -1], wanted)
    assert 0 < wanted[-2] and wanted[-1] < 1, "the answers are neither all right nor all wrong"
    asked = [
        (image["file_name"], image["expression"]) for image in truth.loadImgs(truth.getImgIds())
    ]
    assert asked == sorted([(row.path, row.text) for row in rows.rows], key=lambda one: one[0])
    assert sorted(one["iou"] for one in found.anns.values()) == pytest.approx(
        sorted(row.iou for row in rows.rows if row.target)
    )


def test_superpixels_in_coco_are_those_of_the_cache(tmp_path: Path) -> None:
    reader = write_cache(tmp_path / "cache", range(1, 7))
    run("cache", "export", tmp_path / "cache", "--to", "coco", "--out", tmp_path / "coco")
    truth, found = coco(tmp_path / "coco")
    names = {c["id"]: c["name"] for c in truth.loadCats(truth.getCatIds())}
    levels = {0: "sub-part", 1: "part", 2: "whole"}
    for row, image_id in enumerate(reader.ids.tolist()):
        kept, own = truth.imgToAnns[image_id], reader.superpixels(row)
        assert [names[one["category_id"]] for one in kept] == [levels[int(x)] for x in own.level]
        for one, mask in zip(kept, own.masks(), strict=True):
            np.testing.assert_array_equal(truth.annToMask(one), decode(mask))
            assert one["area"] == decode(mask).sum()
        scores = [one["score"] for one in found.imgToAnns[image_id]]
        np.testing.assert_allclose(scores, own.predicted_iou)
    judge = COCOeval(truth, found, "segm")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    assert judge.stats[0] == pytest.approx(1)


def test_answers_in_fiftyone_lie_where_they_do(
    source: Source, dataset: Path, results: Path, tmp_path: Path
) -> None:
    out = tmp_path / "fiftyone"
    said = run("answers", results, "--dataset", dataset, "--to", "fiftyone", "--out", out)
    assert "1 of 5 answers is an empty mask: without an entry in the field predictions" in said
    found = samples(out)
    assert {Path(one["filepath"]).name for one in found} == {"plain.png", "turned.jpg"}
    assert all(Path(one["filepath"]).is_file() for one in found)
    rows = {row.sent_id: row for row in read_results(results).rows}
    seen = 0
    for one in found:
        for kind, masks in (("predictions", answered), ("targets", lambda mask: mask)):
            for detection in one[kind]["detections"]:
                row = rows[detection["sent_id"]]
                sentence = next(s for s in source.sentences if s.sent_id == row.sent_id)
                target = source.good_masks[sentence.dataset, sentence.ann_id]
                assert detection["label"] == row.text and set(detection["_id"]["$oid"]) <= HEX
                np.testing.assert_array_equal(pasted(detection, *SIZE), decode(masks(target)))
                assert detection.get("iou", row.iou) == row.iou
                seen += 1
    assert seen == 8
    known = types(out)
    assert known["predictions"] == "EmbeddedDocumentField"
    assert known["predictions/iou"] == "FloatField" and known["predictions/tokens"] == "IntField"
    ids = [
        d["_id"]["$oid"]
        for one in found
        for k in ("predictions", "targets")
        for d in one[k]["detections"]
    ]
    assert len(set(ids)) == 8 and all(len(one) == 24 for one in ids)


def test_sets_that_share_photographs_share_samples(results: Path, tmp_path: Path) -> None:
    """FiftyOne has one sample per file."""
    found = read_results(results)
    rows = [*found.rows, *(row.model_copy(update={"dataset": "z"}) for row in found.rows)]
    write_results(tmp_path / "both.jsonl", collect(found.header, rows))
    said = run("answers", tmp_path / "both.jsonl", "--to", "fiftyone", "--out", tmp_path / "both")
    assert "name the data set with --dataset" in said
    one, other = samples(tmp_path / "both")
    assert one["_id"] != other["_id"] and "targets" not in one
    assert sum(len(x["predictions"]["detections"]) for x in (one, other)) == 8


def test_superpixels_in_fiftyone_have_level_and_score(tmp_path: Path) -> None:
    reader = write_cache(tmp_path / "cache", range(1, 3))
    said = run("cache", "export", tmp_path / "cache", "--to", "fiftyone", "--out", tmp_path / "out")
    assert "name their folder with --images" in said
    one, own = samples(tmp_path / "out")[0], reader.superpixels(0)
    found = one["superpixels"]["detections"]
    assert [d["level"] for d in found] == own.level.tolist() and one["image_id"] == 1
    np.testing.assert_allclose([d["confidence"] for d in found], own.predicted_iou)
    known = types(tmp_path / "out")
    assert (
        known["superpixels/stability"] == "FloatField" and known["superpixels/mask"] == "ArrayField"
    )
    (tmp_path / "photos").mkdir()
    words = "--images", tmp_path / "photos", "--out", tmp_path / "again"
    run("cache", "export", tmp_path / "cache", "--to", "fiftyone", *words)
    assert samples(tmp_path / "again")[0]["filepath"] == str(tmp_path / "photos" / one["filepath"])


def test_what_predict_wrote(dataset: Path, tmp_path: Path) -> None:
    mask = svp.open_dataset(dataset, split="val").expressions[0].mask
    said = {"size": [mask.height, mask.width], "counts": mask.counts.decode()}
    one = {"expression": "the left square", "mask": said, "score": 0.75}
    record = {"image": "set/plain.png", "size": list(SIZE), "tokens": 9, "predictions": [one, one]}
    folder = tmp_path / "predictions"
    folder.mkdir()
    lines = folder / "predictions.jsonl"
    lines.write_text(f"{json.dumps(record)}\n{json.dumps(record)}\n")
    run("answers", lines, "--to", "coco", "--out", tmp_path / "coco")
    truth, found = coco(tmp_path / "coco")
    assert len(truth.getImgIds()) == 4 and [a["score"] for a in found.anns.values()] == [0.75] * 4
    np.testing.assert_array_equal(found.annToMask(found.anns[1]), decode(mask))

    # A folder is what stands in it now, which a later call may have answered anew.
    (folder / "plain.json").write_text(json.dumps(record | {"predictions": [one | {"score": 0.5}]}))
    run("answers", folder, "--to", "coco", "--out", tmp_path / "now")
    assert [a["score"] for a in coco(tmp_path / "now")[1].anns.values()] == [0.5]

    words = "--to", "coco", "--out", tmp_path / "none"
    assert "leave out --dataset" in refused("answers", folder, "--dataset", dataset, *words)
    (folder / "bad.json").write_text('{"image": "x.png", "size": [4, 4], "predictions": [{}]}')
    assert "bad.json: no record of `svp predict`" in refused("answers", folder / "bad.json", *words)


def test_refusals_leave_nothing(dataset: Path, results: Path, tmp_path: Path) -> None:
    out = "--to", "coco", "--out", tmp_path / "coco"
    assert "--split-by is read with --dataset" in refused(
        "answers", results, "--split-by", "x", *out
    )
    assert "no answers there" in refused("answers", tmp_path / "none.jsonl", *out)
    row = json.loads(dataset.read_text().splitlines()[0])
    (tmp_path / "other").mkdir()
    (dataset.parent / "plain.png").rename(tmp_path / "other" / "plain.png")
    other = tmp_path / "other" / "val.jsonl"
    other.write_text(json.dumps({**row, "mask": [[0, 0, 9, 0, 9, 9]]}) + "\n")
    assert "name the data set" in refused("answers", results, "--dataset", other, *out)
    assert not (tmp_path / "coco").exists()
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "mine.txt").write_text("mine")
    assert "choose another name" in refused("answers", results, *out)
    assert [path.name for path in (tmp_path / "coco").iterdir()] == ["mine.txt"]
