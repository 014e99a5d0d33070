"""Short tries (--steps, --limit), and mistyped fields told with the nearest that exists."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from svp.cli import main
from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.errors import ConfigError
from svp.pipeline.precompute.options import Flags, resolve
from svp.train.options import TrainFlags, resolve_train


@pytest.mark.parametrize(
    ("size", "steps", "expected"),
    [
        ("paper", 30, [(20, 1), (10, 1)]),
        ("paper", 2, [(1, 0), (1, 0)]),
        ("paper", 10_500, [(7000, 200), (3500, 200)]),
        ("tiny", 5, [(2, 0), (3, 0)]),
    ],
)
def test_stages_and_warm_ups_in_proportion(
    size: str, steps: int, expected: list[tuple[int, int]]
) -> None:
    made, _ = resolve_train(size, None, TrainFlags(steps=steps), (), weights=False)
    assert [(stage.steps, stage.warmup) for stage in made.stages] == expected
    assert made.run.log <= max(1, steps // 10)


def test_fewer_steps_than_stages() -> None:
    with pytest.raises(ConfigError, match="--steps 1: the recipe has 2 stages"):
        resolve_train("paper", None, TrainFlags(steps=1), (), weights=False)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.0.steps=6", "tiny: stages.0: warmup=20 must be less than steps=6: set both"),
        ("global_bach=4", "tiny: global_bach=4: no such field: did you mean global_batch?"),
        ("run.microbatch=4", "tiny: run.microbatch=4: no such field: did you mean run.micro_batch?"),
        ("model.vision.encodr=x", "did you mean model.vision.encoder?"),
        ("stages.0.warmups=1", "stages.0.warmups=1: no such field: did you mean stages.0.warmup?"),
        ("loss.xyz=1", "loss.xyz=1: no such field: fields are ce, bce, dice"),
        ("run.micro_batch=many", "run.micro_batch=many: Input should be a valid integer"),
        ("model.shape.depth=x", "model.shape.depth=x: "),
    ],
)  # fmt: skip
def test_training_recipes(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_train("tiny", None, TrainFlags(), (override,), weights=False)
    assert message in str(caught.value)
    assert "{" not in str(caught.value), "no dump of a group"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("superpixels.sourc=slic", "no such field: did you mean superpixels.source?"),
        ("superpixels.grid.points=4", "did you mean superpixels.grid.points_per_side?"),
        ("features.layer=[1]", "did you mean features.layers?"),
        ("batches=3", "did you mean batch?"),
    ],
)  # fmt: skip
def test_precompute_recipes(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve("tiny", None, Flags(), (override,), Path())
    assert message in str(caught.value)


def test_a_try_through_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images, three steps, micro-batch and checkpointing by this machine's memory."""
    monkeypatch.chdir(tmp_path)
    write_scenes(Path("scenes"), images=6, seed=3, splits={"train": 6})
    made = CliRunner().invoke(main, [
        "precompute", "--split", "train", "--dataset", "scenes", "--points-per-side", "4",
        "--limit", "3", "--workers", "0", "--quiet",
    ])  # fmt: skip
    assert made.exit_code == 0, made.output
    words = ["train", "--from-cache", "--steps", "3", "--limit", "2", "--device", "cpu", "--json",
             "--set", "run.micro_batch=auto", "--set", "run.gradient_checkpointing=auto",
             "--set", "model.warm_projector=false"]  # fmt: skip
    said = CliRunner().invoke(main, words)
    assert said.exit_code == 0, said.output
    report = json.loads(said.stdout)
    assert report["steps"] == 3 and report["images"] == 3 * 8
    config = (Path(report["folder"]) / "config.yaml").read_text()
    assert "micro_batch: 8" in config and "gradient_checkpointing: false" in config
    assert "micro-batch 8, all activations kept" in said.stderr
    assert len((Path(report["folder"]) / "metrics.jsonl").read_text().splitlines()) == 3
