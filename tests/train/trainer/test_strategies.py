"""Weights split over processes, by FSDP2 or DeepSpeed's ZeRO, train what one process trains and leave
the same files."""

import json
import os
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import svp
from support import forked, sharded_run
from support.micro_run import micro_batch, micro_model
from support.sharded_run import FSDP
from support.split_runs import (
    MODEL,
    RUN,
    assert_same_files,
    assert_same_losses,
    losses,
    ranks,
    recipe,
)
from svp.model.language.adapters import Lora, add_lora
from svp.pipeline.errors import ConfigError, NonFiniteError
from svp.train.trainer.checkpoint import checkpoints
from svp.train.trainer.prepare import make_accelerator
from svp.train.trainer.strategies.deepspeed import zero_plugin
from svp.train.trainer.strategies.fsdp import fsdp_plugin
from svp.train.trainer.strategies.shard_copy import ShardCopy

CONFIGS = Path(svp.__file__).parent / "workflows" / "accelerate"
Env = dict[str, str]


def zero(stage: int, **more: str) -> Env:
    return sharded_run.DEEPSPEED | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage)} | more


needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="pip install 'svp[deepspeed]'"
)


def with_deepspeed(*values: object, slow: bool = False) -> Any:
    marks = [needs_deepspeed, *([pytest.mark.slow] if slow else [])]
    return pytest.param(*values, marks=marks)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stages in one process."""
    root = tmp_path_factory.mktemp("one") / "run"
    sharded_run.run(root, recipe(8))
    return root


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "env",
    [FSDP, with_deepspeed(zero(1), slow=True), with_deepspeed(zero(2)), with_deepspeed(zero(3))],
)
def test_two_split_processes_train_what_one_trains(env: Env, whole: Path, tmp_path: Path) -> None:
    assert ranks(tmp_path / "two", recipe(2), env) == [0, 0]
    assert_same_losses(whole, tmp_path / "two")
    assert_same_files(whole, tmp_path / "two")
    assert (tmp_path / "two" / "preview-3").exists()


@needs_deepspeed
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


@needs_deepspeed
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
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([(FSDP, 3)], [(FSDP, None)]),
        with_deepspeed([(zero(2), 2), (zero(3), 3)], [(zero(3), 6), (zero(2), None)]),
    ],
)
def test_a_stopped_run_goes_on_whatever_splits_it(
    before: list[tuple[Env, int]], after: list[tuple[Env, int | None]], whole: Path, tmp_path: Path
) -> None:
    """Only the first rank has the signal; between the two a single process goes on and is killed."""
    root, resume = tmp_path / "run", False
    for env, stop in before:
        assert ranks(root, recipe(4), env, resume=resume, stop_at=stop) == [143, 143]
        resume = True
    assert ranks(root, recipe(4), {}, 1, resume=True, die_at=5) == [-signal.SIGKILL]
    assert checkpoints(root / "checkpoints")[-1].state.stage == 1
    for env, end in after:
        more = {} if end is None else {"stop_at": end}
        code = 0 if end is None else 143
        assert ranks(root, recipe(4), env, resume=True, **more) == [code, code]
    assert_same_losses(whole, root)
    assert_same_files(whole, root)


OFFLOADED = {"ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("env", "changes"),
    [
        (FSDP, {"optimizer": "offload"}),
        with_deepspeed(zero(2, **OFFLOADED), {}),
        with_deepspeed(zero(3, **OFFLOADED), {}),
    ],
)
def test_frozen_bfloat16_recomputed_layers_and_states_in_the_computers_memory(
    env: Env, changes: dict[str, Any], tmp_path: Path
) -> None:
    """Frozen bfloat16 and trained float32 share a layer's unit; all files hold float32."""
    changes = {"model": MODEL | {"dtype": "bfloat16"}} | changes
    again = {"gradient_checkpointing": True}
    assert ranks(tmp_path / "one", recipe(8, again, **changes), {}, 1) == [0]
    assert ranks(tmp_path / "two", recipe(4, again, **changes), env) == [0, 0]
    assert_same_losses(tmp_path / "one", tmp_path / "two", 0.02)
    mine, theirs = (checkpoints(tmp_path / name / "checkpoints")[-2] for name in ("one", "two"))
    pairs = [(mine.weights(), theirs.weights())]
    if env is FSDP:  # ZeRO has states, zeros, also for what got no gradient
        pairs.append((mine.optimizer(), theirs.optimizer()))
    for a, b in pairs:
        assert {n: (v.shape, v.dtype) for n, v in a.items()} == {
            n: (v.shape, v.dtype) for n, v in b.items()
        }
        assert {v.dtype for v in b.values()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("config", "env"), [("fsdp", {}), with_deepspeed("zero2", {"DS_ACCELERATOR": "cpu"})]
)
def test_the_shipped_configuration_splits_under_accelerate_launch(
    config: str, env: Env, whole: Path, tmp_path: Path
) -> None:
    program = Path(sharded_run.__file__)
    changes = {"model": MODEL, "run": RUN | {"micro_batch": 4}}
    where = ["--config_file", str(CONFIGS / f"{config}.yaml"), "--num_processes", "2"]
    launch = [forked.python(), "-m", "accelerate.commands.launch", *where]
    done = subprocess.run(
        [*launch, str(program), str(tmp_path / "run"), json.dumps(changes)],
        env=forked.launched(os.environ | {"OMP_NUM_THREADS": "1"} | env),
        text=True, capture_output=True, check=False,
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
def test_what_fsdp_cannot_split_is_refused_with_the_remedy(
    env: Env, optimizer: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ({"ACCELERATE_USE_FSDP": "true"} | env).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=remedy):
        make_accelerator(recipe(4, optimizer=optimizer), "cpu")


@pytest.fixture
def deepspeed_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file the environment names for DeepSpeed's settings."""
    file = tmp_path / "deepspeed.json"
    for name, value in (zero(2) | {"ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}).items():
        monkeypatch.setenv(name, value)
    return file


@needs_deepspeed
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
    settings: dict[str, object], optimizer: str, remedy: str, deepspeed_file: Path
) -> None:
    deepspeed_file.write_text(json.dumps({"zero_optimization": {"stage": 2}} | settings))
    with pytest.raises(ConfigError, match=remedy):
        zero_plugin(recipe(4, optimizer=optimizer))


@needs_deepspeed
def test_switches_that_are_off_or_left_to_others_are_fine(deepspeed_file: Path) -> None:
    off = {"bf16": {"enabled": "auto"}, "fp16": {"enabled": False}, "gradient_clipping": "auto"}
    settings = {"zero_optimization": {"stage": 3}, "train_batch_size": 7} | off
    deepspeed_file.write_text(json.dumps(settings))
    config = zero_plugin(recipe(4)).deepspeed_config
    assert config["zero_optimization"]["stage"] == 3 and "train_batch_size" not in config
    assert config["train_micro_batch_size_per_gpu"] == 1 and not config["bf16"]["enabled"]


def test_without_a_request_nothing_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
        monkeypatch.delenv(name, raising=False)
    assert fsdp_plugin("adamw8bit") is None
    assert zero_plugin(recipe(4, optimizer="adamw8bit")) is None


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
