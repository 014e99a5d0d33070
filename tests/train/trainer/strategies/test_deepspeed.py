"""Values split by DeepSpeed's ZeRO train what one process trains, and leave the same files."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import svp
from support import sharded_run
from support.split_runs import (
    MODEL,
    RUN,
    assert_same_files,
    assert_same_losses,
    losses,
    ranks,
    recipe,
)
from svp.pipeline.errors import ConfigError, NonFiniteError
from svp.train.trainer.checkpoint import checkpoints
from svp.train.trainer.strategies.deepspeed import zero_plugin

pytest.importorskip("deepspeed", reason="pip install 'svp[deepspeed]'")

CONFIGS = Path(svp.__file__).parent / "workflows" / "accelerate"


def zero(stage: int, **more: str) -> dict[str, str]:
    return sharded_run.DEEPSPEED | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage)} | more


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stages in one process."""
    root = tmp_path_factory.mktemp("one") / "run"
    sharded_run.run(root, recipe(8))
    return root


@pytest.mark.timeout(900)
@pytest.mark.parametrize("stage", [pytest.param(1, marks=pytest.mark.slow), 2, 3])
def test_two_split_processes_train_what_one_trains(stage: int, whole: Path, tmp_path: Path) -> None:
    assert ranks(tmp_path / "two", recipe(2), zero(stage)) == [0, 0]
    assert_same_losses(whole, tmp_path / "two")
    assert_same_files(whole, tmp_path / "two")
    assert (tmp_path / "two" / "preview-3").exists()


@pytest.mark.timeout(900)
def test_a_step_with_a_number_that_is_not_finite_is_not_taken(tmp_path: Path) -> None:
    """Only the first rank meets it; both leave, and what was learnt before is on the disk."""
    root = tmp_path / "run"
    assert ranks(root, recipe(4), zero(2), poison=2) == [NonFiniteError.exit_code] * 2
    record = json.loads((root / "nonfinite-00000002.json").read_text())
    assert "refcoco/202" in record["images"]
    last = checkpoints(root / "checkpoints")[-1]
    assert last.state.step == 2
    assert all(value.isfinite().all() for value in last.weights().values())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_dropped_step_changes_no_weight(tmp_path: Path) -> None:
    root = tmp_path / "run"
    assert ranks(root, recipe(4), zero(2), poison=2, skip=1) == [0, 0]
    assert sorted(losses(root)) == [1, 2, 4, 5, 6, 7]
    before, after = checkpoints(root / "checkpoints")[1:3]
    assert after.state.skipped == 1
    for name, value in before.weights().items():
        assert value.equal(after.weights()[name])
    for name, value in before.optimizer().items():
        assert value.equal(after.optimizer()[name])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_stopped_run_goes_on_whatever_splits_it(whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    assert ranks(root, recipe(4), zero(2), stop_at=2) == [143, 143]  # one rank had the signal
    assert ranks(root, recipe(4), zero(3), resume=True, stop_at=3) == [143, 143]
    assert ranks(root, recipe(4), {}, 1, resume=True, die_at=5) == [-signal.SIGKILL]
    assert ranks(root, recipe(4), zero(3), resume=True, stop_at=6) == [143, 143]
    assert ranks(root, recipe(4), zero(2), resume=True) == [0, 0]
    assert_same_losses(whole, root)
    assert_same_files(whole, root)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("stage", [2, 3])
def test_frozen_bfloat16_recomputed_layers_and_states_in_the_computers_memory(
    stage: int, tmp_path: Path
) -> None:
    """Trained numbers are float32 in every file."""
    changes = {"model": MODEL | {"dtype": "bfloat16"}}
    again = {"gradient_checkpointing": True}
    there = {"ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"}
    assert ranks(tmp_path / "one", recipe(8, again, **changes), {}, 1) == [0]
    assert ranks(tmp_path / "two", recipe(4, again, **changes), zero(stage, **there)) == [0, 0]
    assert_same_losses(tmp_path / "one", tmp_path / "two", 0.02)
    mine, theirs = (checkpoints(tmp_path / name / "checkpoints")[-2] for name in ("one", "two"))
    assert {n: (v.shape, v.dtype) for n, v in mine.weights().items()} == {
        n: (v.shape, v.dtype) for n, v in theirs.weights().items()
    }


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_shipped_configuration_splits_under_accelerate_launch(
    whole: Path, tmp_path: Path
) -> None:
    program = Path(sharded_run.__file__)
    changes = {"model": MODEL, "run": RUN | {"micro_batch": 4}}
    where = ["--config_file", str(CONFIGS / "zero2.yaml"), "--num_processes", "2"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", *where]
    done = subprocess.run(
        [*launch, str(program), str(tmp_path / "run"), json.dumps(changes)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert checkpoints(tmp_path / "run" / "checkpoints")[-1].state.world == 2
    assert_same_losses(whole, tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "optimizer", "remedy"),
    [
        ({}, "offload", "offload_optimizer_device: cpu"),
        ({}, "adamw8bit", "use adamw"),
        ({"zero_optimization": {"stage": 0}}, "adamw", "leave DeepSpeed out"),
        ({"optimizer": {"type": "Adam"}}, "adamw", "the recipe has the optimizer"),
        ({"scheduler": {"type": "WarmupLR"}}, "adamw", "the recipe has the learning rate"),
        ({"bf16": {"enabled": True}}, "adamw", "model.dtype"),
    ],
)
def test_settings_that_contradict_the_recipe_are_refused(
    settings: dict[str, object],
    optimizer: str,
    remedy: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    file = tmp_path / "deepspeed.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 2}} | settings))
    for name, value in (zero(2) | {"ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=remedy):
        zero_plugin(recipe(4, optimizer=optimizer))


def test_switches_that_are_off_or_left_to_others_are_fine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "deepspeed.json"
    off = {"bf16": {"enabled": "auto"}, "fp16": {"enabled": False}, "gradient_clipping": "auto"}
    file.write_text(json.dumps({"zero_optimization": {"stage": 3}, "train_batch_size": 7} | off))
    for name, value in (zero(2) | {"ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}).items():
        monkeypatch.setenv(name, value)
    config = zero_plugin(recipe(4)).deepspeed_config
    assert config["zero_optimization"]["stage"] == 3 and "train_batch_size" not in config
    assert config["train_micro_batch_size_per_gpu"] == 1 and not config["bf16"]["enabled"]


def test_without_a_request_nothing_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED", raising=False)
    assert zero_plugin(recipe(4, optimizer="adamw8bit")) is None
