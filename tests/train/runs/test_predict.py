"""`svp predict` of a folder and of JSONL lines: every photograph once, with files of its own."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import svp
from support.answered import masks
from support.micro_export import make
from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.errors import ConfigError, DataError, MissingError
from svp.pipeline.masks.rle import decode
from svp.train.runs.predict import PredictRequest, predict_command
from svp.train.runs.questions import questions


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the export `model` and a photograph."""
    root = tmp_path_factory.mktemp("predict")
    make(root)
    (root / "export").rename(root / "model")
    photo = min((root / "scenes" / "images").glob("val*"))
    Image.open(photo).save(root / "photo.jpg", "PNG")
    return root


def asked_about(exported: Path, images: Path, out: Path, *expressions: str) -> PredictRequest:
    return PredictRequest(
        images=images, expressions=expressions, checkpoint=exported / "model", out=out,
        device="cpu", size="tiny",
    )  # fmt: skip


def test_a_folder_is_answered_and_bad_photographs_are_left_out(
    exported: Path, tmp_path: Path
) -> None:
    photo, folder = Image.open(exported / "photo.jpg").convert("RGB"), tmp_path / "photos"
    for name in ("x.png", "b/x.png", "b/y.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        photo.save(folder / name)
    (folder / "cut.png").write_bytes((folder / "x.png").read_bytes()[:500])
    (folder / "notes.txt").write_text("none")
    with tarfile.open(folder / "more.tar", "w") as tar:
        tar.add(folder / "x.png", "x.png")
    report = predict_command(asked_about(exported, folder, tmp_path / "out", "the red disc"))
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    records = {record["image"].split("#")[0]: record for record in map(json.loads, lines)}
    names = ("b/x.png", "b/y.jpg", "more.tar/x.png", "x.png")
    assert records.keys() == {str(folder / name) for name in names} and len(lines) == 4
    whole = masks(report)
    assert all((mask == whole[0]).all() for mask in (whole[2], whole[3]))
    written = [file for record in records.values() for file in record["files"]]
    assert len(set(written)) == 12 and all(Path(file).is_file() for file in written)
    assert report.left_out.keys() == {str(folder / "cut.png")} and report.exit_code == 1
    assert report.lines()[-3].startswith("left out: image") and "truncated" in report.lines()[-3]
    assert report.lines()[-2] == "4 photographs answered, 1 left out"
    for path in [*folder.glob("**/*.png"), *folder.glob("**/*.jpg"), folder / "more.tar"]:
        if path.name != "cut.png":
            path.unlink()
    with pytest.raises(DataError, match=r"no photograph could be used: .*cut\.png: truncated"):
        predict_command(asked_about(exported, folder, tmp_path / "out", "the red disc"))


def test_lines_name_photographs_and_expressions(exported: Path, tmp_path: Path) -> None:
    Image.open(exported / "photo.jpg").save(tmp_path / "a.png")
    Image.open(exported / "photo.jpg").convert("RGB").crop((0, 0, 90, 60)).save(tmp_path / "b.png")
    rows = [
        {"image": "a.png", "expression": "the red disc", "mask": [[0, 0, 5, 0, 5, 5]]},
        {"image": "b.png", "expression": ["disc", "the box"]},
        {"image": "a.png", "expression": "box"},
    ]
    file = tmp_path / "asked.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = predict_command(asked_about(exported, file, tmp_path / "out"))
    said = [[p["expression"] for p in photo.record["predictions"]] for photo in report.photos]
    assert said == [["the red disc", "box"], ["disc", "the box"]] and report.exit_code == 0
    assert [mask.shape for mask in masks(report)] == [(128, 128)] * 2 + [(60, 90)] * 2
    alone = predict_command(asked_about(exported, tmp_path / "a.png", tmp_path / "one", "box"))
    assert (masks(alone)[0] != masks(report)[1]).sum() <= 5
    assert not (tmp_path / "one" / "predictions.jsonl").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"image": "../a.png", "expression": "disc"}', "line 2: file name .*holds a .. component"),
        (
            '{"image": "a.png", "expression": "[SEG]"}',
            r"line 2: expression .*special token \[SEG\]",
        ),
        ('{"image": "a.png", "expression": 3}', "line 2: `expression` is neither"),
        ('{"image": "c.png"}', "line 2: no `expression`"),
        ('["a.png"]', "line 2: want an object with `image`"),
        ("{", "line 2"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "asked.jsonl"
    file.write_text('{"image": "a.png", "expression": "disc"}\n' + line + "\n")
    with pytest.raises(DataError, match=said):
        questions(file, ())


def test_what_is_asked_needs_photographs_and_expressions(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one expression"):
        questions(tmp_path / "a.png", ())
    with pytest.raises(MissingError, match="no image in a format"):
        questions(tmp_path, ("disc",))
    with pytest.raises(MissingError, match="no such file"):
        questions(tmp_path / "a.jsonl", ("disc",))


def test_the_model_of_this_package_answers(tmp_path: Path) -> None:
    """By its name, on scenes it was not trained on; a folder of that name comes first."""
    write_scenes(tmp_path / "scenes", images=3, seed=4321, splits={"testA": 3})
    data = svp.open_dataset(tmp_path / "scenes", split="testA")
    paths = {record.image_id: data.image_root / record.path for record in data.images}
    overlaps = []
    with svp.load("tiny", device="cpu") as seg:
        for sentence in data.sentences[::4]:
            answer = seg(paths[sentence.image_id], sentence.sent)
            target = decode(data.annotations[sentence.dataset, sentence.ann_id].mask())
            both = answer.mask & target
            overlaps.append(both.sum() / (answer.mask | target).sum())
            assert 1 < answer.tokens == len(answer.superpixels) < 256
    assert len(overlaps) > 4 and np.mean(overlaps) > 0.5
