"""Weights split over processes (FSDP2) train what one process trains, and leave the same files."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import svp
from support import sharded_run
from support.micro_run import micro_batch, micro_model
from support.split_runs import MODEL, RUN, assert_same_files, assert_same_losses, ranks, recipe
from svp.model.language_model import Lora, add_lora
from svp.pipeline.errors import ConfigError
from svp.train.trainer.checkpoint import checkpoints
from svp.train.trainer.prepare import make_accelerator
from svp.train.trainer.strategies.fsdp import fsdp_plugin
from svp.train.trainer.strategies.shard_copy import ShardCopy

CONFIGS = Path(svp.__file__).parent / "workflows" / "accelerate"
FSDP = sharded_run.FSDP


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stages in one process."""
    root = tmp_path_factory.mktemp("one") / "run"
    sharded_run.run(root, recipe(8))
    return root


@pytest.mark.timeout(900)
def test_two_split_processes_train_what_one_trains(whole: Path, tmp_path: Path) -> None:
    assert ranks(tmp_path / "two", recipe(2), FSDP) == [0, 0]
    assert_same_losses(whole, tmp_path / "two")
    assert_same_files(whole, tmp_path / "two")
    assert (tmp_path / "two" / "preview-3").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_stopped_run_goes_on_with_split_weights_or_without(whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    assert ranks(root, recipe(4), FSDP, stop_at=3) == [
        143,
        143,
    ]  # only the first rank had the signal
    assert ranks(root, recipe(4), {}, world=1, resume=True, die_at=5) == [-signal.SIGKILL]
    assert checkpoints(root / "checkpoints")[-1].state.stage == 1
    assert ranks(root, recipe(4), FSDP, resume=True) == [0, 0]
    assert_same_losses(whole, root)
    assert_same_files(whole, root)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_frozen_bfloat16_recomputed_layers_and_offloaded_states_split(tmp_path: Path) -> None:
    """Frozen bfloat16 and trained float32 share a layer's unit; all files hold float32."""
    changes = {"model": MODEL | {"dtype": "bfloat16"}, "optimizer": "offload"}
    again = {"gradient_checkpointing": True}
    assert ranks(tmp_path / "one", recipe(8, again, **changes), {}, world=1) == [0]
    assert ranks(tmp_path / "two", recipe(4, again, **changes), FSDP) == [0, 0]
    assert_same_losses(tmp_path / "one", tmp_path / "two", 0.02)
    mine, theirs = (checkpoints(tmp_path / name / "checkpoints")[-2] for name in ("one", "two"))
    for a, b in ((mine.weights(), theirs.weights()), (mine.optimizer(), theirs.optimizer())):
        assert {n: (v.shape, v.dtype) for n, v in a.items()} == {
            n: (v.shape, v.dtype) for n, v in b.items()
        }
        assert {v.dtype for v in b.values()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_shipped_configuration_splits_under_accelerate_launch(
    whole: Path, tmp_path: Path
) -> None:
    program = Path(sharded_run.__file__)
    changes = {"model": MODEL, "run": RUN | {"micro_batch": 4}}
    where = ["--config_file", str(CONFIGS / "fsdp.yaml"), "--num_processes", "2"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", *where]
    done = subprocess.run(
        [*launch, str(program), str(tmp_path / "run"), json.dumps(changes)],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert checkpoints(tmp_path / "run" / "checkpoints")[-1].state.world == 2
    assert_same_losses(whole, tmp_path / "run")


@pytest.mark.parametrize(
    ("env", "optimizer", "remedy"),
    [
        ({"FSDP_VERSION": "1"}, "adamw", "set fsdp_version: 2"),
        (FSDP | {"FSDP_ACTIVATION_CHECKPOINTING": "true"}, "adamw", "run.gradient_checkpointing"),
        (FSDP, "adamw8bit", "use adamw"),
    ],
)
def test_what_cannot_be_split_is_refused_with_the_remedy(
    env: dict[str, str], optimizer: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ({"ACCELERATE_USE_FSDP": "true"} | env).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=remedy):
        make_accelerator(recipe(4, optimizer=optimizer), "cpu")


def test_without_a_request_nothing_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    assert fsdp_plugin("adamw8bit") is None


def test_a_lent_model_has_no_values_until_it_is_filled() -> None:
    model, batch = micro_model(), micro_batch([1, 2])
    add_lora(model.lm, Lora(2, 4, 0.0, ("q_proj",)))
    model.lm.lm_head.weight.requires_grad_(False)
    before = model.predict(batch)
    trained = {name: p.requires_grad for name, p in model.named_parameters()}
    own = dict(model.named_parameters())
    optimizer = torch.optim.AdamW([p for p in own.values() if p.requires_grad])
    lent = ShardCopy(make_accelerator(recipe(4), "cpu"), model, optimizer)
    assert all(lent.parameters[name] is parameter for name, parameter in own.items())
    assert all(parameter.is_meta for parameter in model.parameters())
    with torch.no_grad():
        lent.parameters["to_prompt.2.bias"].add_(1.0)
    with lent.usable():
        inside = model.predict(batch)
    assert not torch.equal(inside[0], before[0])
    assert {name: p.requires_grad for name, p in model.named_parameters()} == trained
    with pytest.raises((NotImplementedError, RuntimeError)):
        model.predict(batch)
    lent.leave()
    assert all(torch.equal(a, b) for a, b in zip(model.predict(batch), inside, strict=True))
