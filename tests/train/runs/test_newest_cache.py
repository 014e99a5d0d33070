"""The cache and the data that a training takes where none is named."""

import json
import os
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from svp.cli import main
from svp.pipeline.cache.places import DataPlaces, write_places
from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.errors import ConfigError, MissingError
from svp.train.options import DataRequest
from svp.train.runs.newest_cache import chosen_size, data_of, newest_cache, require_images
from svp.train.trainer.run_data import RunData, Used

SHORT = ("stages.0.steps=1", "stages.0.warmup=0", "stages.1.steps=1", "stages.1.warmup=0",
         "global_batch=2", "run.micro_batch=2", "run.preview=0",
         "model.warm_projector=false")  # fmt: skip
SETS = [word for assignment in SHORT for word in ("--set", assignment)]


def svp(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in arguments])


def places(dataset: Path | str, split: str = "train") -> DataPlaces:
    return DataPlaces(dataset=str(dataset), images=Path("/photos"), split=split)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with scenes and, in `caches`, one cache of its train split by its JSONL."""
    root = tmp_path_factory.mktemp("found")
    write_scenes(root / "scenes", images=8, seed=3, splits={"train": 6, "val": 2})
    before = Path.cwd()
    os.chdir(root)
    try:
        said = svp("precompute", "--split", "train", "--dataset", "scenes/scenes.jsonl",
                   "--points-per-side", 4, "--workers", 0,
                   "--quiet")  # fmt: skip
    finally:
        os.chdir(before)
    assert said.exit_code == 0, said.output
    return root


def test_the_two_lines_train_on_what_was_cut(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`svp precompute --split train --dataset X`, then `svp train --from-cache`: on X."""
    monkeypatch.chdir(made)
    said = svp("train", "--from-cache", "--json", "--device", "cpu", *SETS)
    assert said.exit_code == 0, said.output
    (cache,) = Path("caches").glob("scenes*")
    assert f"cache: {cache}, the newest of split train" in said.stderr
    assert json.loads(said.stdout)["steps"] == 2


def test_a_limited_cache_trains_and_every_next_command_runs(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--limit was asked for, so --partial need not be; what is printed is pasted, blanks and all."""
    monkeypatch.chdir(tmp_path)
    cut = svp("precompute", "--split", "train", "--dataset", made / "scenes", "--limit", 2,
              "--points-per-side", 4, "--workers", 0, "--out", "my cache", "--quiet")  # fmt: skip
    assert cut.exit_code == 0, cut.output
    following = cut.stdout.splitlines()[-1].removeprefix("next: ")
    assert following == "svp train --from-cache 'my cache'"
    trained = svp(*shlex.split(following)[1:], "--device", "cpu", "--runs", "my runs", *SETS)
    assert trained.exit_code == 0, trained.output
    assert "2 of 6 images with expressions used: my cache was made with --limit, and 4 others are" in trained.stderr  # fmt: skip
    evaluate, predict = (line.removeprefix("next: ") for line in trained.stdout.splitlines()[-2:])
    assert evaluate.startswith("svp eval --checkpoint 'my runs/")
    scored = svp(*shlex.split(evaluate)[1:], "--from-cache", "my cache", "--split", "train",
                 "--no-bounds")  # fmt: skip
    assert scored.exit_code == 0, scored.output
    assert "left out: 4 images beyond the --limit of the cache" in scored.stdout
    assert predict.startswith("svp predict ")
    said = svp(*shlex.split(predict)[1:])
    assert said.exit_code == 0, said.output


def test_newest_complete_of_the_split(
    made: Path, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(made)
    (cache,) = Path("caches").glob("scenes*")
    half = Path("caches/half")
    (half / "logs").mkdir(parents=True)
    (half / "plan.json").write_bytes((cache / "plan.json").read_bytes())
    shutil.copytree(cache / "images", half / "images")
    write_places(half, places(made / "scenes"))
    assert newest_cache("train") == cache
    assert "half: newer, but not finished" in logged.messages[0]
    assert newest_cache("train", "scenes/scenes.jsonl") == cache
    for split, dataset, remedy in (
        ("val", None, "`svp precompute --split val`.*svp quickstart"),
        ("train", "scenes", "`svp precompute --split train --dataset scenes`"),
        ("testA", "/a b", "`svp precompute --split testA --dataset '/a b'`"),
    ):
        with pytest.raises(MissingError, match=remedy):
            newest_cache(split, dataset)


def test_data_of_caches(tmp_path: Path) -> None:
    caches = [tmp_path / name for name in ("a", "b", "c")]
    for cache, dataset in zip(caches, ("/x", "/x", "/y"), strict=True):
        (cache / "logs").mkdir(parents=True)
        write_places(cache, places(dataset))
    whole = DataRequest(dataset="/x", images=Path("/photos"))
    assert data_of(caches[:2], DataRequest()) == whole
    moved = DataRequest(images=Path("/elsewhere"))
    assert data_of(caches[:1], moved) == replace(whole, images=Path("/elsewhere"))
    named = DataRequest(dataset="/z")
    assert data_of(caches, named) == named
    with pytest.raises(ConfigError, match="different data .*: name --dataset"):
        data_of(caches, DataRequest())
    (caches[0] / "logs/places.json").unlink()
    with pytest.raises(MissingError, match="does not say which data .*--dataset"):
        data_of(caches[:1], DataRequest())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (
            (),
            2,
            (
                "Error: no cache to train on",
                "svp precompute --split train",
                "svp quickstart",
                "--from-cache",
            ),
        ),
        (("--resume", "auto"), 2, ("with its --from-cache", "--resume RUN")),
        (("--size", "paper", "--init", "none"), 2, ("svp quickstart",)),
        (("--recipe", "nothere.yaml"), 3, ("nothere.yaml",)),
        (("--from-cache", "--recipe", "nothere.yaml"), 3, ("nothere.yaml",)),
        (("--set", "stages=1"), 2, ("stages",)),
        (("--from-cache",), 3, ("svp precompute --split train", "svp quickstart")),
        (("--from-cache", "nowhere"), 3, ("nowhere", "svp precompute --split train")),
    ],
)
def test_nothing_is_made_for_a_request_that_cannot_be(
    arguments: tuple[str, ...], code: int, words: tuple[str, ...],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    result = svp("train", *arguments)
    assert result.exit_code == code, result.output
    assert all(word in result.output for word in words), result.output
    assert not list(tmp_path.iterdir())


def test_photographs_without_expressions_are_nothing_to_train_on(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said of the data, before the cache: no other cache of it could be trained on either."""
    monkeypatch.chdir(tmp_path)
    cut = svp("precompute", "--dataset", made / "scenes/images", "--size", "tiny", "--limit", 2,
              "--points-per-side", 2, "--workers", 0, "--out", "cache", "--quiet")  # fmt: skip
    assert cut.exit_code == 0, cut.output
    result = svp("train", "--from-cache", "cache", "--size", "tiny")
    assert result.exit_code == 2 and "photographs without expressions" in result.output
    assert "svp precompute" not in result.output and not (tmp_path / "runs").exists()


def test_a_quickstart_with_a_wrong_field_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert svp("quickstart", "--set", "stages=1").exit_code == 2
    assert not list(tmp_path.iterdir())


def test_an_image_folder_that_is_named_must_be_there(tmp_path: Path) -> None:
    require_images(DataRequest())
    require_images(DataRequest(images=tmp_path))
    require_images(DataRequest(images=Path("s3://bucket/photos")))
    with pytest.raises(MissingError, match=r"--images .*none: no image folder"):
        require_images(DataRequest(images=tmp_path / "none"))


def test_the_size_is_that_of_the_caches_unless_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caches = [tmp_path / name for name in ("one", "two", "other", "unsaid")]
    for cache, size in zip(caches, ("paper", "paper", "tiny", None), strict=True):
        write_places(cache, replace(places("d"), size=size))
    one, two, other, unsaid = caches
    caplog.set_level("INFO", "svp")
    assert chosen_size(None, [one, two]) == "paper"
    assert "size: paper, as the cache was made" in caplog.text
    assert chosen_size("small", [one]) == "small"
    mixed: list[list[Path]] = [[one, other], [one, unsaid], [unsaid], [tmp_path / "none"], []]
    for some in mixed:
        assert chosen_size(None, some) is None, some
    run = RunData(training=Used(split="train", dataset="d", caches=()), size="tiny")
    assert chosen_size(None, [one], run) == "tiny" and chosen_size("paper", [], run) == "paper"
    assert chosen_size(None, [other], run.model_copy(update={"size": None})) == "tiny"
    record = one / "logs/places.json"
    record.write_text(record.read_text().replace('"paper"', '"huge"'))
    assert chosen_size(None, [one]) is None, "a record of another version"
