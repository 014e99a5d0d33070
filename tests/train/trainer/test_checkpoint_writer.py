"""Checkpoints written by a thread: the same files and promises as if training had waited."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from support import micro_run
from support.fresh import FRESH
from svp.pipeline.errors import CacheError, Interrupted, NonFiniteError
from svp.train.trainer import checkpoint, checkpoint_writer
from svp.train.trainer.checkpoint import Checkpoint, State, checkpoints
from svp.train.trainer.checkpoint_writer import CheckpointWriter

RECIPE = micro_run.micro_recipe(run={"checkpoint": 1, "keep": 99})


def tree(root: Path) -> dict[str, bytes]:
    folder = root / "checkpoints"
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def waited(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Checkpoints of a run that stood still until each of them was on the disk."""
    root = tmp_path_factory.mktemp("waited") / "run"

    def save(self: CheckpointWriter, *arguments: Any) -> None:
        self._write(*arguments)
        self.wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointWriter, "save", save)
        micro_run.run(root, RECIPE)
    return tree(root)


def test_files_are_equal_however_long_the_writer_takes(
    waited: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps taken while it writes change nothing in what it writes; the next save waits."""
    plain, took = checkpoint.save_file, micro_run.MicroStream._batch
    steps, seen, at_work = [0], [], threading.Lock()

    def counted(self: micro_run.MicroStream, step: int, part: range) -> object:
        steps[0] = max(steps[0], step)
        return took(self, step, part)

    def slow(*arguments: Any) -> None:
        assert at_work.acquire(blocking=False), "two checkpoints at once"
        if arguments[1].name == checkpoint.WEIGHTS:
            began, deadline = steps[0], time.monotonic() + 2
            while steps[0] == began < RECIPE.steps - 1 and time.monotonic() < deadline:
                time.sleep(0.005)
            seen.append(steps[0] - began)
        plain(*arguments)
        at_work.release()

    monkeypatch.setattr(checkpoint, "save_file", slow)
    monkeypatch.setattr(micro_run.MicroStream, "_batch", counted)
    micro_run.run(tmp_path / "run", RECIPE)
    assert max(seen) >= 1, "training stood still"
    assert tree(tmp_path / "run") == waited


@pytest.mark.parametrize("fails", [2, 7])
def test_an_error_of_the_writer_ends_the_run(
    fails: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the next checkpoint, or at the end (step 7 is the last)."""
    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", failing(fails))
    with pytest.raises(CacheError, match=f"step {fails}: no space"):
        micro_run.run(tmp_path / "run", RECIPE)
    kept = [found.state.step for found in checkpoints(tmp_path / "run" / "checkpoints")]
    assert kept == list(range(1, fails))


def test_an_error_beside_another_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", failing(2))
    with pytest.raises(NonFiniteError):
        micro_run.run(tmp_path / "run", RECIPE, poison=2)
    assert "the last checkpoint was not written: step 2: no space" in caplog.text


def failing(step: int) -> Callable[..., Checkpoint]:
    """`save_checkpoint` that fails at a step."""

    def save(folder: Path, state: State, *tensors: Any) -> Checkpoint:
        if state.step == step:
            raise CacheError(f"step {step}: no space")
        return checkpoint.save_checkpoint(folder, state, *tensors)

    return save


def test_a_signal_waits_for_the_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, batch = checkpoint.save_file, micro_run.MicroStream._batch

    def signalled(self: micro_run.MicroStream, step: int, part: range) -> object:
        if step == 2 and part.start == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(self, step, part)

    def slow(*arguments: Any) -> None:
        time.sleep(0.2)
        plain(*arguments)

    monkeypatch.setattr(checkpoint, "save_file", slow)
    monkeypatch.setattr(micro_run.MicroStream, "_batch", signalled)
    with pytest.raises(Interrupted, match="a checkpoint written"):
        micro_run.run(tmp_path / "run", RECIPE)
    assert checkpoints(tmp_path / "run" / "checkpoints")[-1].state.step == 2


WRITES = ("mkdir", "weights", "optimizer", "state", "rename", "old", "named", "pruned")


def killed_run(root: Path, point: str, at: int) -> None:
    """A run that ends with SIGKILL at `point` of writing checkpoint `at`."""

    def kill_in(owner: Any, name: str, *, when: Callable[..., bool], after: bool = False) -> None:
        plain = getattr(owner, name)

        def act(*arguments: Any, **named: Any) -> Any:
            hit = current[0] == at and when(*arguments)
            if hit and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = plain(*arguments, **named)
            if hit:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(owner, name, act)

    current = [0]
    plain_write = CheckpointWriter._write

    def write(self: CheckpointWriter, state: State, *tensors: Any) -> None:
        current[0] = state.step
        plain_write(self, state, *tensors)

    CheckpointWriter._write = write  # type: ignore[method-assign]
    partial = ".partial"
    match point:
        case "mkdir":
            kill_in(Path, "mkdir", when=lambda p, *_: partial in p.name, after=True)
        case "weights" | "optimizer":
            kill_in(checkpoint, "file_digest", when=lambda p: point in p.name)
        case "state":
            kill_in(os, "fsync", when=lambda fd: True)
        case "rename":
            kill_in(Path, "rename", when=lambda p, _: partial in p.name)
        case "old":  # the one that is replaced has lost its name, the new one has none yet
            kill_in(shutil, "rmtree", when=lambda p, **_: ".old." in p.name)
        case "named":
            kill_in(Path, "rename", when=lambda p, _: partial in p.name, after=True)
        case "pruned":
            kill_in(checkpoint_writer, "prune", when=lambda *_: True)
    recipe = micro_run.micro_recipe(run={"checkpoint": 1, "keep": 2})
    micro_run.run(root, recipe, resume=(root / "checkpoints").exists())


@pytest.mark.parametrize("point", WRITES)
def test_a_kill_at_any_point_leaves_the_checkpoint_before(
    point: str, waited: dict[str, bytes], tmp_path: Path
) -> None:
    root, at = tmp_path / "run", 3
    if point == "old":  # a run goes on from step 2 where one of step 3 is there to be replaced
        micro_run.run(root, RECIPE)
        for found in checkpoints(root / "checkpoints")[2:]:
            shutil.move(found.path, tmp_path / found.path.name)
    process = FRESH.Process(target=killed_run, args=(root, point, at))
    if point == "old":
        process = FRESH.Process(
            target=killed_while_replacing, args=(root, tmp_path / "step-00000003")
        )
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    newest = checkpoints(root / "checkpoints")[-1]
    named = point in ("named", "pruned")
    assert newest.state.step == (at if named else at - 1)
    # Loads without an error, so digests hold; and it is what a run that waited has.
    assert newest.weights().keys() and newest.optimizer().keys()
    name = f"{newest.path.name}/weights.safetensors"
    assert (newest.path / "weights.safetensors").read_bytes() == waited[name]


def killed_while_replacing(root: Path, third: Path) -> None:
    """A run from step 2 on that finds a checkpoint of step 3 there when it writes its own."""
    batch = micro_run.MicroStream._batch

    def put_back(self: micro_run.MicroStream, step: int, part: range) -> object:
        if step == 2 and not (root / "checkpoints" / "step-00000003").exists():
            shutil.copytree(third, root / "checkpoints" / "step-00000003")
        return batch(self, step, part)

    micro_run.MicroStream._batch = put_back  # type: ignore[assignment, method-assign]
    killed_run(root, "old", 3)


def test_tensors_of_a_checkpoint_are_copies(tmp_path: Path) -> None:
    """The parameters of a CPU model are on the CPU already: `.to` would give them themselves."""
    from svp.train.trainer.prepare import enter_stage, make_accelerator, make_ready

    model = micro_run.micro_model()
    accelerator = make_accelerator(RECIPE, "cpu")
    make_ready(model, RECIPE, 0)
    strategy = enter_stage(accelerator, model, RECIPE, 0)
    name = next(iter(strategy.names.values()))
    saved = strategy.weights([name])[name]
    before = saved.clone()
    with torch.no_grad():
        strategy.parameters[name].add_(1)
    assert torch.equal(saved, before)
