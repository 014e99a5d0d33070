"""A run that was stopped anywhere ends bit-equal to one that was not."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from support import micro_run
from support.fresh import FRESH
from svp.pipeline.errors import Interrupted, PlanMismatchError, WeightsError
from svp.train.trainer.checkpoint import OPTIMIZER, STATE, WEIGHTS, checkpoints

RECIPE = micro_run.micro_recipe()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of both stages without interruption."""
    root = tmp_path_factory.mktemp("whole") / "run"
    micro_run.run(root, RECIPE)
    return root


def last(root: Path) -> dict[str, bytes]:
    """Bytes of the last checkpoint's tensors, and the losses of all steps."""
    newest = checkpoints(root / "checkpoints")[-1]
    assert newest.state.step == RECIPE.steps
    files = {name: (newest.path / name).read_bytes() for name in (WEIGHTS, OPTIMIZER)}
    return files | {"metrics": (root / "metrics.jsonl").read_bytes()}


def child(target: object, *arguments: object) -> int:
    """Exit code of a process of its own."""
    process = FRESH.Process(target=target, args=arguments)  # type: ignore[arg-type]
    process.start()
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode


def killed_run(root: Path, die_at: int, resume: bool) -> None:
    micro_run.run(root, RECIPE, die_at=die_at, resume=resume)


def test_killed_in_either_stage_and_resumed_is_bit_equal(tmp_path: Path, whole: Path) -> None:
    root, first, second = tmp_path / "run", random.Random(5).randint(1, 3), 5
    assert child(killed_run, root, first, False) == -signal.SIGKILL
    assert child(killed_run, root, second, True) == -signal.SIGKILL
    micro_run.run(root, RECIPE, resume=True)
    assert last(root) == last(whole)


@pytest.mark.slow
@pytest.mark.parametrize("step", range(1, 7))
def test_killed_at_any_step_is_bit_equal(step: int, tmp_path: Path, whole: Path) -> None:
    root = tmp_path / "run"
    assert child(killed_run, root, step, False) == -signal.SIGKILL
    micro_run.run(root, RECIPE, resume=True)
    assert last(root) == last(whole)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_step_saves_and_names_the_command(
    signum: signal.Signals, code: int, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "run"
    at = {signal.SIGTERM: 2, signal.SIGINT: 4}[signum]  # 4: between the stages
    plain = micro_run.MicroStream._batch

    def signalled(self: micro_run.MicroStream, step: int, part: range) -> object:
        if step == at and part.start == 0:
            os.kill(os.getpid(), signum)
            time.sleep(0.01)
        return plain(self, step, part)

    monkeypatch.setattr(micro_run.MicroStream, "_batch", signalled)
    with pytest.raises(
        Interrupted, match=f"checkpoint written. To resume: again in {root}"
    ) as stop:
        micro_run.run(root, RECIPE)
    assert stop.value.exit_code == code
    saved = checkpoints(root / "checkpoints")[-1].state
    assert (saved.step, saved.stage_end) == (at, at == 4)
    monkeypatch.setattr(micro_run.MicroStream, "_batch", plain)
    micro_run.run(root, RECIPE, resume=True)
    assert last(root) == last(whole)


def test_equal_runs_write_equal_metrics(tmp_path: Path, whole: Path) -> None:
    micro_run.run(tmp_path / "run", RECIPE)
    assert last(tmp_path / "run") == last(whole)
    lines = (whole / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, RECIPE.steps + 1))


def test_another_recipe_or_cache_is_refused_with_the_field(whole: Path, tmp_path: Path) -> None:
    checkpoint = checkpoints(whole / "checkpoints")[-1]
    other = json.loads(micro_run.micro_recipe(seed=4, global_batch=16).canonical())
    with pytest.raises(PlanMismatchError) as caught:
        checkpoint.require(other, {"table": "t" * 64, "cache:train": "d" * 64})
    for part in ("recipe.global_batch: checkpoint has 8, this run 16", "recipe.seed",
                 "data.cache:train: checkpoint has ccc"):  # fmt: skip
        assert part in str(caught.value)
    longer = json.loads(RECIPE.canonical())
    longer["stages"][0]["steps"] += 1
    steps = RECIPE.stages[0].steps
    with pytest.raises(
        PlanMismatchError,
        match=rf"run: recipe\.stages\.0\.steps: checkpoint has {steps}, this run {steps + 1}\. Use",
    ):
        checkpoint.require(longer, micro_run.MicroStream(RECIPE).identity)
    split = json.loads(micro_run.micro_recipe(name="other", run={"micro_batch": 1}).canonical())
    checkpoint.require(
        split, micro_run.MicroStream(RECIPE).identity
    )  # how it is carried out may change


@pytest.mark.parametrize("name", [WEIGHTS, OPTIMIZER, STATE])
def test_a_damaged_checkpoint_is_refused_by_name(name: str, whole: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(whole, copy)
    file = checkpoints(copy / "checkpoints")[-1].path / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)
    with pytest.raises(WeightsError, match="damaged checkpoint"):
        damaged = checkpoints(copy / "checkpoints")[-1]
        damaged.weights(), damaged.optimizer()


def test_kept_checkpoints_are_the_last_and_the_stage_ends(whole: Path) -> None:
    steps = [checkpoint.state.step for checkpoint in checkpoints(whole / "checkpoints")]
    assert steps == [4, 6, 7]  # 2 was dropped: two are kept, and the ends of the stages at 4, 7


def test_what_was_trained_before_is_in_later_checkpoints(whole: Path) -> None:
    weights = checkpoints(whole / "checkpoints")[-1].weights()
    assert {"lm.model.embed_tokens.weight", "projector.mlp.0.weight"} <= weights.keys()
    assert any("lora_B" in name and value.abs().sum() > 0 for name, value in weights.items())
    frozen = [name for name in weights if "base_layer" in name or "prompt_encoder" in name]
    assert frozen == [] and all(value.dtype == torch.float32 for value in weights.values())
