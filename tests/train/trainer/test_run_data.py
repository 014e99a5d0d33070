"""A run records its data, so that the other commands find it; held-out data in its own file."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from svp.cli import main
from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.errors import DataError
from svp.train.metrics import NAMES
from svp.train.options import DataRequest, Places, TrainFlags
from svp.train.trainer.checkpoint import checkpoints
from svp.train.trainer.run_data import (
    RunData,
    UsedCache,
    read_run_data,
    split_to_score,
    used,
    weights_of,
    with_weights,
)

SHORT = ("stages.0.steps=1", "stages.0.warmup=0", "stages.1.steps=2", "stages.1.warmup=0",
         "global_batch=2", "run.micro_batch=1", "run.preview=0", "run.log=1",
         "run.validate_every=2", "model.warm_projector=false")  # fmt: skip
SETS = [word for assignment in SHORT for word in ("--set", assignment)]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in arguments])


def svp(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.jsonl and val.jsonl, neither with a split in its lines, a cache of each."""
    root = tmp_path_factory.mktemp("rundata")
    write_scenes(root / "scenes", images=8, seed=3, splits={"train": 6, "val": 2})
    lines = [json.loads(x) for x in (root / "scenes/scenes.jsonl").read_text().splitlines()]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for split in ("train", "val"):
            own = [{**line, "split": "train"} for line in lines if line["split"] == split]
            file = root / "scenes" / f"{split}.jsonl"
            file.write_text("".join(json.dumps(line) + "\n" for line in own))
            made = run("precompute", "--dataset", f"scenes/{split}.jsonl", "--points-per-side", 4,
                       "--out", f"caches/{split}", "--workers", 0, "--quiet", "--size",
                       "tiny")  # fmt: skip
            assert made.exit_code == 0, made.output
    return root


@pytest.fixture(scope="module")
def trained(world: Path) -> tuple[Path, str]:
    """A run folder, and what was said."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        words = ["train", "--from-cache", "caches/train", "--validate", "caches/val",
                 "--device", "cpu", "--size", "tiny", *SETS]  # fmt: skip
        patch.setattr("sys.argv", ["/bin/svp", *words])
        said = run(*words, "--json")
    assert said.exit_code == 0, said.output
    return world / json.loads(said.stdout)["folder"], said.stderr


def test_held_out_scores_are_recorded(trained: tuple[Path, str]) -> None:
    folder, said = trained
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    held = [{k: v for k, v in line.items() if k.startswith("held-out/")} for line in lines]
    assert [bool(scores) for scores in held] == [True, True, True], "stage ends and every 2 steps"
    assert set(held[-1]) <= {f"held-out/{name}" for name in NAMES} and "held-out/gIoU" in held[-1]
    state = json.loads(max(folder.glob("checkpoints/*/state.json")).read_text())
    assert held[-1]["held-out/gIoU"] == 100 * state["scores"]["gIoU"], "percent here, a share there"
    assert f"held-out gIoU {held[-1]['held-out/gIoU']:.2f}  cIoU" in said
    assert "held-out: 2 images of" in said
    assert (
        " tokens/s, " in said
        and " % padding, " in said
        and " GiB, " in said
        and " images/s" in said
    )


def test_tensorboard_has_scores_rates_and_memory(trained: tuple[Path, str]) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(trained[0] / "tensorboard"))
    board.Reload()
    tags = set(board.Tags()["scalars"])
    assert tags >= {
        "held-out/gIoU",
        "rate/images",
        "rate/tokens",
        "rate/padding",
        "memory/GiB",
        "loss",
    }
    assert min(event.value for event in board.Scalars("rate/tokens")) > 0


def test_a_checkpoint_records_the_frozen_models(trained: tuple[Path, str]) -> None:
    """Other caches are compared with them."""
    state = checkpoints(trained[0] / "checkpoints")[-1].state
    assert (state.sam, state.features) == ("tiny shipped", "tiny shipped view squash 128 px")


def test_the_record(world: Path, trained: tuple[Path, str]) -> None:
    known = read_run_data(trained[0])
    assert known is not None and known.validation is not None
    assert known.training.dataset == str(world / "scenes/train.jsonl")
    assert known.validation.dataset == str(world / "scenes/val.jsonl")
    assert [c.path for c in known.validation.caches] == [world / "caches/val"]
    command = json.loads((trained[0] / "env.json").read_text())["command"]
    assert command.startswith("svp train --from-cache caches/train --validate caches/val ")


def test_other_commands_find_the_data(
    world: Path, trained: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the run is named, from the folder the run was started in."""
    monkeypatch.chdir(world)
    folder = trained[0]
    found = svp("eval", "--checkpoint", folder, "--device", "cpu", "--no-bounds", "--size", "tiny")
    assert found["splits"][0]["size"]["images"] == 2
    assert (found["splits"][0]["size"]["split"]) == "all"
    told = svp("figures", folder, "--device", "cpu")
    assert told["drawn"]["qualitative"] and told["drawn"]["fit"]
    assert "model.safetensors" in svp("export", world / "export", "--checkpoint", folder)["files"]
    photo = next((world / "scenes/images").glob("val_*.png"))
    said = svp("predict", photo, "red disc", "--checkpoint", folder, "--device", "cpu")
    assert said["predictions"][0]["expression"] == "red disc"


def test_a_named_run_goes_on_with_its_own_caches(
    world: Path, trained: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = svp("train", "--resume", trained[0], "--device", "cpu", "--size", "tiny", *SETS)
    assert (said["folder"], said["steps"]) == (str(trained[0]), 3)
    known = read_run_data(trained[0])
    assert known is not None and known.validation is not None, "still scored on the same images"


def test_a_named_run_goes_on_with_its_own_recipe(
    world: Path, trained: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither --steps nor --set is repeated; what is said all the same must fit."""
    monkeypatch.chdir(tmp_path)
    again = ("train", "--resume", trained[0], "--device", "cpu", "--size", "tiny")
    assert svp(*again)["steps"] == 3
    assert svp(*again, "--micro-batch", 1)["steps"] == 3
    other = run(*again, "--seed", 5)
    assert other.exit_code == 2 and "recipe.seed: checkpoint has 0, this run 5" in other.output
    assert "--resume RUN` without --set, --steps" in other.output


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--validate", "caches/train"), 2, "every image of it is trained on"),
        (("--validate", "caches/none"), 3, "svp precompute --split val"),
        (("--validate-dataset", "x.jsonl"), 2, "requires --validate"),
        (("--validate", "caches/val", "--validate-dataset", "scenes/no.jsonl"), 3, "no.jsonl"),
        (("--optimizer", "adamw8bit"), 3, "bitsandbytes"),
    ],
)
def test_a_refused_start_leaves_nothing(
    words: tuple[str, ...], code: int, message: str, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    result = run("train", "--from-cache", "caches/train", "--runs", "refused", "--device", "cpu",
                 "--size", "tiny", *SETS, *words)  # fmt: skip
    assert (result.exit_code, message in result.output) == (code, True), result.output
    assert not Path("refused").exists()


def test_a_start_refused_late_leaves_nothing(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise DataError("too late")

    monkeypatch.chdir(world)
    monkeypatch.setattr("svp.train.trainer.trainer.enter_stage", refuse)
    result = run("train", "--from-cache", "caches/train", "--runs", "late", "--device", "cpu",
                 "--size", "tiny", *SETS)  # fmt: skip
    assert result.exit_code == 1 and "too late" in result.output
    assert not Path("late").exists()


def test_records_of_any_kind(tmp_path: Path) -> None:
    assert read_run_data(tmp_path) is None and split_to_score(None) == "testA"
    request = DataRequest(dataset="refcoco,refcoco+", root=tmp_path)
    mine = used(request, "train", {tmp_path / "c": "0" * 64})
    assert mine.request == request and mine.caches == (UsedCache(path=tmp_path / "c", id="0" * 64),)
    assert split_to_score(RunData(training=mine)) == "val"
    for text in ("{", "[]", '{"training": 3}', '{"training": {"dataset": "x"}}'):
        (tmp_path / "data.json").write_text(text)
        with pytest.raises(DataError, match=r"data\.json"):
            read_run_data(tmp_path)


def test_weights_are_found_where_the_run_found_them(tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    step = run_folder / "checkpoints" / "step-1"
    step.mkdir(parents=True)
    init = tmp_path / "GLaMM"
    init.mkdir()
    mine = used(DataRequest(dataset="refcoco"), "train", {})
    known = RunData(training=mine, weights=weights_of(Places(init=init)))
    (run_folder / "data.json").write_text(known.model_dump_json())
    checkpoint: Any = SimpleNamespace(path=step)
    assert with_weights(checkpoint, TrainFlags()).init == str(init)
    assert with_weights(checkpoint, TrainFlags(init="other")).init == "other"
    init.rmdir()
    assert with_weights(checkpoint, TrainFlags()).init is None
    (run_folder / "data.json").unlink()
    assert with_weights(checkpoint, TrainFlags()) == TrainFlags()
