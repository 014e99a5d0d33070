"""Weights split over processes (FSDP2) train what one process trains, and leave the same files."""

import json
import multiprocessing as mp
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "fixtures" / "train"))
os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], os.environ.get("PYTHONPATH", "")])
import sharded_run
from micro_run import RECIPE, micro_batch, micro_model, micro_recipe

import svp
from svp.model.lm import Lora, add_lora
from svp.pipeline.errors import ConfigError
from svp.train.fit.checkpoint import checkpoints
from svp.train.fit.sharded import filled, fsdp_plugin, lend
from svp.train.fit.stage import make_accelerator
from svp.train.recipe import TrainRecipe

CONFIGS = Path(svp.__file__).parent / "workflows" / "accelerate"
FRESH = mp.get_context("forkserver")
FRESH.set_forkserver_preload(["sharded_run"])
# Dropout draws by process; without it a global batch has one loss whatever it is split into.
LORA = {"r": 2, "targets": ["q_proj", "v_proj"], "dropout": 0.0}
FSDP = sharded_run.FSDP
RUN = {"checkpoint": 1, "keep": 99, "preview": 3, "validate_every": 2}


MODEL = RECIPE["model"] | {"lora": LORA}


def recipe(micro: int, run: Mapping[str, Any] | None = None, **changes: Any) -> TrainRecipe:
    return micro_recipe(
        **{"model": MODEL, "run": RUN | {"micro_batch": micro} | (run or {})} | changes
    )


def ranks(
    root: Path, wanted: TrainRecipe, world: int = 2, **options: int | bool
) -> list[int | None]:
    """Exit codes of `world` processes; two and more split the weights."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        FRESH.Process(
            target=sharded_run.rank_main,
            args=(rank, world, port, FSDP if world > 1 else {}, root, wanted, options),
        )
        for rank in range(world)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()
    return [process.exitcode for process in started]


def losses(root: Path) -> dict[int, list[float]]:
    lines = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: [line["loss"], line["norm"], line["masks"]] for line in lines}


def assert_same_losses(one: Path, other: Path, tolerance: float = 1e-5) -> None:
    mine, theirs = losses(one), losses(other)
    assert mine.keys() == theirs.keys() == set(range(1, 8))
    for step, values in mine.items():
        assert theirs[step] == pytest.approx(values, rel=tolerance)


def assert_same_files(one: Path, other: Path, tolerance: float = 1e-4) -> None:
    """Every checkpoint has the same names and shapes, and close values."""
    pairs = list(zip(*(checkpoints(root / "checkpoints") for root in (one, other)), strict=True))
    assert len(pairs) == 7
    for mine, theirs in pairs:
        for a, b in ((mine.weights(), theirs.weights()), (mine.optimizer(), theirs.optimizer())):
            assert a.keys() == b.keys()
            assert all(a[name].dtype == b[name].dtype for name in a)
            for name, value in a.items():
                torch.testing.assert_close(b[name], value, rtol=tolerance, atol=tolerance)
        assert theirs.state.scores == pytest.approx(mine.state.scores, abs=1e-4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stages in one process."""
    root = tmp_path_factory.mktemp("one") / "run"
    sharded_run.run(root, recipe(8))
    return root


@pytest.mark.timeout(900)
def test_two_split_processes_train_what_one_trains(whole: Path, tmp_path: Path) -> None:
    assert ranks(tmp_path / "two", recipe(2)) == [0, 0]
    assert_same_losses(whole, tmp_path / "two")
    assert_same_files(whole, tmp_path / "two")
    assert (tmp_path / "two" / "preview-3").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_stopped_run_goes_on_with_split_weights_or_without(whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    assert ranks(root, recipe(4), stop_at=3) == [143, 143]  # only the first rank had the signal
    assert ranks(root, recipe(4), world=1, resume=True, die_at=5) == [-signal.SIGKILL]
    assert checkpoints(root / "checkpoints")[-1].state.stage == 1
    assert ranks(root, recipe(4), resume=True) == [0, 0]
    assert_same_losses(whole, root)
    assert_same_files(whole, root)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_frozen_bfloat16_recomputed_layers_and_offloaded_states_split(tmp_path: Path) -> None:
    """Frozen bfloat16 and trained float32 share a layer's unit; all files hold float32."""
    changes = {"model": MODEL | {"dtype": "bfloat16"}, "optimizer": "offload"}
    again = {"gradient_checkpointing": True}
    assert ranks(tmp_path / "one", recipe(8, again, **changes), world=1) == [0]
    assert ranks(tmp_path / "two", recipe(4, again, **changes)) == [0, 0]
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
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "adamw", "--use_fsdp --fsdp_version 2"),
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
    twin = lend(model)
    assert all(twin.get_parameter(name) is parameter for name, parameter in own.items())
    assert all(parameter.is_meta for parameter in model.parameters())
    with torch.no_grad():
        twin.to_prompt[2].bias.add_(1.0)
    with filled(model, twin, torch.device("cpu")):
        inside = model.predict(batch)
    assert all(torch.equal(a, b) for a, b in zip(inside, twin.predict(batch), strict=True))
    assert not torch.equal(inside[0], before[0])
    assert {name: p.requires_grad for name, p in model.named_parameters()} == trained
    with pytest.raises((NotImplementedError, RuntimeError)):
        model.predict(batch)
