"""A stage that trains the language model itself, and one after it that does not any more."""

import importlib.util
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from support import sharded_run
from support.micro_run import micro_model
from support.split_runs import MODEL, assert_same_losses, ranks, recipe
from svp.train.recipe import PARTS, TrainRecipe
from svp.train.trainer.checkpoint import Checkpoint, checkpoints

STAGES = [
    {"name": "whole", "steps": 4, "lr": 1e-2, "warmup": 0, "trains": [*PARTS, "lm"]},
    {"name": "rest", "steps": 3, "lr": 1e-2, "warmup": 0},
]
FSDP, ZERO3 = sharded_run.FSDP, sharded_run.DEEPSPEED | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}
RUN = {"validate_every": 0, "preview": 0}


def wanted(micro: int) -> TrainRecipe:
    """Frozen weights are bfloat16."""
    return recipe(micro, RUN, model=MODEL | {"dtype": "bfloat16"}, stages=STAGES)


def saved(root: Path) -> list[Checkpoint]:
    return checkpoints(root / "checkpoints")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("one") / "run"
    sharded_run.run(root, wanted(8))
    return root


def test_all_of_it_trains_in_float32_and_then_stays(whole: Path) -> None:
    begin = {n: p.bfloat16().float() for n, p in micro_model().named_parameters()}
    every = [checkpoint.weights() for checkpoint in saved(whole)]
    layers = {n for n in begin if n.startswith("lm.model.") and "embed_tokens" not in n}
    assert len(layers) == 2 * 9 + 1 and layers <= every[0].keys()
    for name in layers:
        values = [weights[name] for weights in every]
        assert {value.dtype for value in values} == {torch.float32}
        assert all(
            not torch.equal(a, b)
            for a, b in zip([begin[name], *values[:3]], values[:4], strict=True)
        )
        assert all(torch.equal(value, values[3]) for value in values[4:])
        assert not torch.equal(values[3], values[3].bfloat16().float())
    states = [checkpoint.optimizer().keys() for checkpoint in saved(whole)]
    assert all(f"{name}/exp_avg" in states[2] and f"{name}/exp_avg" not in states[5]
               for name in layers)  # fmt: skip


@pytest.mark.parametrize("step", [2, 4, 6])
def test_a_stopped_run_goes_on_bit_for_bit(step: int, whole: Path, tmp_path: Path) -> None:
    """Inside the stage, at its end, and where the trained layers are frozen again."""
    for checkpoint in saved(whole)[:step]:
        shutil.copytree(checkpoint.path, tmp_path / "run" / "checkpoints" / checkpoint.path.name)
    sharded_run.run(tmp_path / "run", wanted(8), resume=True)
    mine, theirs = saved(whole)[-1], saved(tmp_path / "run")[-1]
    assert theirs.state.step == 7 and theirs.state.files == mine.state.files


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "env",
    [
        FSDP,
        pytest.param(
            ZERO3,
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(
                    importlib.util.find_spec("deepspeed") is None,
                    reason="pip install 'svp[deepspeed]'",
                ),
            ],
        ),
    ],
    ids=["fsdp", "zero3"],
)
def test_split_over_two_processes_and_stopped(
    env: Mapping[str, str], whole: Path, tmp_path: Path
) -> None:
    """What trains is made float32 after the split; a checkpoint comes back in float32 too."""
    root = tmp_path / "run"
    assert ranks(root, wanted(4), env, stop_at=3) == [143, 143]
    last = saved(root)[-1]
    assert last.state.step == 2
    assert {value.dtype for value in last.weights().values()} == {torch.float32}
    assert ranks(root, wanted(4), env, resume=True) == [0, 0]
    assert_same_losses(whole, root, 0.02)
    for name, value in saved(whole)[-1].weights().items():
        found = saved(root)[-1].weights()[name]
        assert found.dtype == value.dtype == torch.float32 and found.shape == value.shape


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("env", [FSDP, ZERO3], ids=["fsdp", "zero3"])
def test_split_and_stopped_equals_split_bit_for_bit(env: Mapping[str, str], tmp_path: Path) -> None:
    if env is ZERO3:
        pytest.importorskip("deepspeed", reason="pip install 'svp[deepspeed]'")
    assert ranks(tmp_path / "whole", wanted(4), env) == [0, 0]
    assert ranks(tmp_path / "run", wanted(4), env, stop_at=3) == [143, 143]
    assert ranks(tmp_path / "run", wanted(4), env, resume=True) == [0, 0]
    for mine, theirs in zip(saved(tmp_path / "whole"), saved(tmp_path / "run"), strict=True):
        assert mine.state.files == theirs.state.files
