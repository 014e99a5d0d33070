"""Superpixels of one's own: masks from a folder in three formats, and plug-ins by file and entry point."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import svp as svp_package
from svp.cli import main
from svp.pipeline import plugins
from svp.pipeline.cache.reader import CacheReader
from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.errors import ConfigError, ImageError, MissingError, PlanMismatchError
from svp.pipeline.masks import rle
from svp.pipeline.recipe import Recipe, SuperpixelConfig
from svp.pipeline.records import LocalPaths
from svp.pipeline.superpixels import external as own
from svp.pipeline.superpixels import mask_folder
from svp.pipeline.superpixels.generator import build_generator, generate

H, W = 30, 40
LABELS = np.zeros((H, W), np.int64)
LABELS[2:10, 3:20], LABELS[12:28, 5:35], LABELS[0, 39] = 7, 300, 9
MASKS = np.stack([LABELS == label for label in (7, 9, 300)])
PHOTO = np.full((H, W, 3), 90, np.uint8)
PLUGIN = """
import numpy as np
from svp.pipeline.superpixels.external import SuperpixelMethod, METHODS, superpixels

@superpixels("halves", version="1")
def halves(image):
    labels = np.ones(image.shape[:2], int)
    labels[:, image.shape[1] // 2:] = 2
    return labels

class Corner(SuperpixelMethod):
    def masks(self, image):
        mask = np.zeros(image.shape[:2], bool)
        mask[:5, :5] = True
        return [mask, mask]

METHODS["corner"] = Corner
"""


def rles(masks: Any) -> list[dict[str, Any]]:
    return [{"size": [H, W], "counts": rle.encode(m).counts.decode()} for m in masks]


def write(folder: Path, kind: str, name: str = "a") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}{kind}"
    if kind == ".json":
        path.write_text(json.dumps(rles(MASKS)))
    elif kind == ".png":
        Image.fromarray(LABELS.astype(np.uint16)).save(path)
    else:
        np.savez(path, masks=MASKS)
    return path


def cut(folder: Path, name: str = "a.jpg", limit: int = 256) -> Any:
    config = SuperpixelConfig(source="masks", made="sha256:1", max_superpixels=limit)
    source = build_generator(config, LocalPaths(Path(), masks=folder))
    return generate(source, [PHOTO], [name], embeddings=False)[0][0]


@pytest.mark.parametrize("kind", [".json", ".png", ".npz"])
def test_every_format_gives_the_same_superpixels(kind: str, tmp_path: Path) -> None:
    write(tmp_path / "m", kind)
    found = cut(tmp_path / "m")
    assert {mask.counts for mask in found.masks()} == {rle.encode(m).counts for m in MASKS}
    assert sorted(found.area) == [1, 8 * 17, 16 * 30] and not found.fallback
    assert set(found.level) == {2} and set(found.stability) == set(found.predicted_iou) == {1.0}
    k = int(np.argmax(found.area))
    assert found.box[k].tolist() == [5, 12, 34, 27] and found.point[k].tolist() == [19.5, 19.5]
    assert len(cut(tmp_path / "m", limit=2)) == 2, "the largest stay"


def test_what_sam_wrote_keeps_its_scores(tmp_path: Path) -> None:
    records = [
        {"segmentation": r, "predicted_iou": 0.5 + n / 10, "stability_score": 0.9, "level": n,
         "bbox": [0, 0, 1, 1], "area": 3}
        for n, r in enumerate(rles(MASKS))
    ]  # fmt: skip
    write(tmp_path / "m", ".json").write_text(json.dumps({"masks": records}))
    found = cut(tmp_path / "m")
    assert found.level.tolist() == [0, 1, 2]
    np.testing.assert_allclose(found.predicted_iou, [0.5, 0.6, 0.7], rtol=1e-6)


def test_empty_ones_and_copies_go_and_nothing_is_the_whole_image(tmp_path: Path) -> None:
    write(tmp_path / "m", ".json").write_text(
        json.dumps(rles([MASKS[0], np.zeros((H, W), bool), MASKS[0], MASKS[2]]))
    )
    assert len(cut(tmp_path / "m")) == 2
    (tmp_path / "m/a.json").write_text("[]")
    assert cut(tmp_path / "m").fallback and cut(tmp_path / "m").area.tolist() == [H * W]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '{"a": 1}', "want a list of masks"),
        ("a.json", '[{"size": [3, 4], "counts": "0"}]', "a.jpg: a.json: .*mask 0"),
        ("a.json", "nothing", "a.jpg: a.json"),
        ("a.json", '[{"segmentation": [[0, 0, 9, 0, 9, 9]], "level": 5}]', "level=5: want 0 to 2"),
        ("a.png", None, "20x20 pixels, want 30x40"),
        ("a.npz", None, "masks is"),
        ("b.json", "[]", r"a.jpg: no masks: a\{.json,.png,.npz\} is not in the folder"),
    ],
)
def test_masks_that_do_not_fit_are_named(
    name: str, content: str | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    elif name.endswith("png"):
        Image.new("L", (20, 20)).save(path)
    else:
        np.savez(path, masks=MASKS[:, :5])
    with pytest.raises(ImageError, match=message) as error:
        cut(tmp_path)
    assert error.value.reason == ("no-masks" if name == "b.json" else "bad-masks")


def test_files_are_found_by_name_and_nothing_above(tmp_path: Path) -> None:
    (tmp_path / "m/sub").mkdir(parents=True)
    write(tmp_path / "m/sub", ".json", "a")
    write(tmp_path / "m/sub", ".json", "b.jpg")
    assert len(cut(tmp_path / "m", "sub/a.jpg")) == len(cut(tmp_path / "m", "sub/b.jpg")) == 3
    for name in ("", "../m/sub/a.jpg"):
        with pytest.raises(ImageError, match="no masks"):
            cut(tmp_path / "m/sub", name)


def test_the_folders_digest_is_that_of_its_masks(tmp_path: Path) -> None:
    write(tmp_path / "m", ".png")
    (tmp_path / "m/notes.txt").write_text("x")
    first = mask_folder.folder_digest(tmp_path / "m")
    (tmp_path / "m/notes.txt").write_text("y")
    assert mask_folder.folder_digest(tmp_path / "m") == first
    write(tmp_path / "m", ".npz", "b")
    assert mask_folder.folder_digest(tmp_path / "m") != first
    for folder, why in ((tmp_path / "n", "is not a folder"), (tmp_path / "e", "named as it is")):
        if folder.name == "e":
            folder.mkdir()
        with pytest.raises(MissingError, match=why):
            mask_folder.folder_digest(folder)


def test_a_cache_of_masks_is_not_seen_live() -> None:
    config = SuperpixelConfig(source="masks", made="sha256:1")
    with pytest.raises(MissingError, match="use the cache without --live"):
        build_generator(config, LocalPaths(Path()))


def test_recipes_without_it_keep_their_digest() -> None:
    assert "made" not in Recipe().model_dump()["superpixels"]
    assert json.loads(Recipe().canonical())["superpixels"]["source"] == "sam"


def test_a_plug_in_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_installed", lambda group, name: lambda image: LABELS)
    monkeypatch.setattr(own, "METHODS", {})
    with pytest.raises(PlanMismatchError, match="superpixels=thing: this cache is made with"):
        build_generator(SuperpixelConfig(source="thing", made="1 abc"), LocalPaths(Path()))
    kind = own.find_method("thing")
    config = SuperpixelConfig(source="thing", made=own.method_version(kind))
    (found,), _ = build_generator(config, LocalPaths(Path())).generate_batch([PHOTO])
    assert len(found) == 3, "an entry point may be a plain function"


def svp(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_by_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own, "METHODS", own.METHODS)
    Path("photos").mkdir()
    for name in ("a", "b"):
        Image.fromarray(PHOTO).save(f"photos/{name}.png")
    Path("mine.py").write_text(PLUGIN)
    write(tmp_path / "m", ".png")
    base = ("precompute", "--size", "tiny", "--dataset", "photos", "--workers", 0, "--quiet")
    for name, count in (("halves", 2), ("corner", 1)):
        made = svp(*base, "--plugin", "mine.py", "--superpixels", name, "--out", name)
        assert made.exit_code == 0, made.output
        reader = CacheReader(Path(name))
        assert [len(reader.superpixels(i)) for i in range(2)] == [count, count]
        assert reader.plan.recipe.superpixels.source == name
        assert reader.plan.recipe.superpixels.made.startswith("1 " if name == "halves" else "- ")
    masks = svp(*base, "--superpixels", "masks", "--masks", "m", "--out", "c")
    assert masks.exit_code == 0 and "1 x no-masks" in masks.output
    for words, why in (
        (("--superpixels", "masks"), "name their folder with --masks DIR"),
        (("--masks", "m"), "--masks requires --superpixels masks"),
        (("--superpixels", "nothing"), "allowed are .*masks.*sam.*slic"),
    ):
        wrong = svp(*base, *words, "--out", "d")
        assert wrong.exit_code == 2, wrong.output
        with pytest.raises(ConfigError, match=why):
            raise ConfigError(wrong.output)


def test_the_example_of_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(svp_package.__file__).parent / "docs/superpixels.md").read_text()
    code = next(part for part in text.split("```python\n") if part.startswith("# halves.py"))
    line = next(line for line in text.splitlines() if line.startswith("svp precompute --plugin"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(own.METHODS, "halves", raising=False)  # another test's file has the name
    Path("halves.py").write_text(code.split("```")[0])
    write_scenes(Path("data/scenes"), images=10, seed=0)
    # On generated scenes with the tiny encoder; the last of two options counts.
    here = ("--size", "tiny", "--dataset", "data/scenes", "--split", "train", "--out", "c")
    made = svp(*line.split()[1:], *here, "--workers", 0, "--quiet")
    assert made.exit_code == 0, made.output
    assert [len(CacheReader(Path("c")).superpixels(0))] == [2]


def _raises(image: Any) -> Any:
    raise LookupError("boom")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda image: None, "TypeError"),
        (lambda image: 3, "TypeError"),
        (lambda image: np.array(1), "TypeError"),
        (lambda image: [[[True]], [[True, False], [True]]], "ValueError"),
        (lambda: None, "TypeError"),
        (_raises, "LookupError: boom"),
        (lambda image: np.ones((2, 8, 10)), "a mask is float64"),
    ],
)
def test_a_plug_in_that_fails_is_named_with_the_photograph(function: Any, message: str) -> None:
    make = own.from_method(own._as_class(function), "mine")
    with pytest.raises(ImageError, match=rf"superpixels=mine: a\.jpg: .*{message}"):
        own.to_record(make(np.zeros((8, 10, 3), np.uint8), "a.jpg"), 8, 10, 9)


def test_a_plug_in_cannot_change_the_photograph() -> None:
    def blacken(image: Any) -> Any:
        image[:] = 0
        return np.ones((1, 8, 10), bool)

    image = np.full((8, 10, 3), 7, np.uint8)
    own.from_method(own._as_class(blacken), "mine")(image, "a.jpg")
    assert (image == 7).all()


@pytest.mark.parametrize("name", ["sam", "mobile_sam", "slic", "masks", ""])
def test_names_of_this_packages_sources_are_taken(name: str) -> None:
    with pytest.raises(ConfigError, match="the name is taken"):
        own.superpixels(name)(lambda image: image)
    assert name not in own.METHODS
