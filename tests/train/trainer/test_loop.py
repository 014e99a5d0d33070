"""One loss however the batch is split; nothing is learned from a number that is not finite."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from support import micro_run
from support.fresh import FRESH
from svp.model.projectors import Projector
from svp.pipeline.errors import ConfigError, NonFiniteError
from svp.train.estimates.gpus import Gpu
from svp.train.estimates.memory import Line, MemoryEstimate
from svp.train.estimates.sizing import Demand, choose, settled
from svp.train.recipe import StageConfig, TrainRecipe, split_evenly
from svp.train.trainer import prepare
from svp.train.trainer.checkpoint import checkpoints
from svp.train.trainer.optimizers import (
    OffloadedAdamW,
    build_optimizer,
    learning_rate,
    restore,
    state_of,
)

# Dropout draws by process; without it a global batch has one loss whatever it is split into.
LORA = {"r": 2, "targets": ["q_proj", "v_proj"], "dropout": 0.0}


def recipe(micro: int, **changes: Any) -> TrainRecipe:
    model = micro_run.RECIPE["model"] | {"lora": LORA}
    run = {"micro_batch": micro, **changes.pop("run", {})}
    return micro_run.micro_recipe(model=model, run=run, **changes)


def losses(root: Path) -> list[tuple[float, float, int, int]]:
    lines = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    return [(line["loss"], line["norm"], line["tokens"], line["masks"]) for line in lines]


def ranks(world: int, root: Path, wanted: TrainRecipe) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        FRESH.Process(target=micro_run.rank_main, args=(rank, world, port, root, wanted))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0] * world


def test_two_processes_and_accumulation_give_the_loss_of_one_batch(tmp_path: Path) -> None:
    short = [
        {"name": "one", "steps": 2, "lr": 1e-2, "warmup": 0, "add_sspe": False},
        {"name": "two", "steps": 1, "lr": 1e-2, "warmup": 0, "lora": True},
    ]
    micro_run.run(tmp_path / "whole", recipe(8, stages=short))
    micro_run.run(tmp_path / "accumulated", recipe(2, stages=short))
    ranks(2, tmp_path / "two", recipe(4, stages=short))
    one = losses(tmp_path / "whole")
    for other in ("accumulated", "two"):
        found = losses(tmp_path / other)
        assert [line[2:] for line in found] == [line[2:] for line in one]
        for mine, theirs in zip(found, one, strict=True):
            assert mine[0] == pytest.approx(theirs[0], abs=1e-6 * max(1, theirs[0]))
            assert mine[1] == pytest.approx(theirs[1], rel=1e-4)


@pytest.mark.parametrize(("batch", "world"), [(1, 1), (7, 1), (13, 1), (14, 2), (21, 3)])
def test_a_micro_batch_that_was_chosen_gives_the_losses_of_one_image_at_a_time(
    batch: int, world: int, tmp_path: Path
) -> None:
    """On a device where everything fits: a process's whole share at once."""
    short = [{"name": "one", "steps": 2, "lr": 1e-2, "warmup": 0, "lora": True}]
    asked = recipe(1, stages=short, global_batch=batch, run={"micro_batch": "auto"})
    one = MemoryEstimate((Line("language model", 1, ""),))
    big = Gpu("test", 1 << 40, 1e14, 1e12)
    chosen = choose(asked, Demand(1, (one, one), (1e9, 1e9), 1), big, world)
    assert chosen.micro == batch // world
    made = settled(asked, chosen)
    if world == 1:
        micro_run.run(tmp_path / "auto", made)
    else:
        ranks(world, tmp_path / "auto", made)
    micro_run.run(tmp_path / "one", recipe(1, stages=short, global_batch=batch))
    found, expected = losses(tmp_path / "auto"), losses(tmp_path / "one")
    assert [line[2:] for line in found] == [line[2:] for line in expected]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine[:2] == pytest.approx(theirs[:2], rel=1e-5)


def test_a_compiled_projector_trains_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What CUDA does, with graphs that run operator by operator."""
    micro_run.run(tmp_path / "plain", recipe(2))
    built = []

    def compile_project(projector: Projector) -> None:
        built.append(projector)
        made(projector, "eager")

    made = Projector.compile_project
    monkeypatch.setattr(Projector, "compile_project", compile_project)
    monkeypatch.setattr(prepare, "compiles", lambda device: device == "cpu")
    micro_run.run(tmp_path / "compiled", recipe(2))
    assert len(built) == len(recipe(2).stages)
    plain, compiled = losses(tmp_path / "plain"), losses(tmp_path / "compiled")
    assert [line[0] for line in compiled] == pytest.approx([line[0] for line in plain], rel=1e-5)
    states = [
        checkpoints(tmp_path / name / "checkpoints")[-1].weights().keys()
        for name in ("plain", "compiled")
    ]
    assert states[0] == states[1]


def test_a_non_finite_loss_stops_before_the_step_and_names_the_batch(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"step 1: .*refcoco/102.*--skip-nonfinite") as error:
        micro_run.run(tmp_path / "run", recipe(4, run={"checkpoint": 1}), poison=1)
    assert error.value.exit_code == 1
    record = json.loads((tmp_path / "run" / "nonfinite-00000001.json").read_text())
    assert record["images"] == ["refcoco/100", "refcoco/101", "refcoco/102", "refcoco/103"]
    assert len(losses(tmp_path / "run")) == 1
    last = checkpoints(tmp_path / "run" / "checkpoints")[-1]
    assert all(bool(value.isfinite().all()) for value in last.weights().values())


def test_a_skipped_step_changes_no_weight(tmp_path: Path) -> None:
    report = micro_run.run(
        tmp_path / "run", recipe(4, run={"checkpoint": 1, "keep": 99}), poison=1, skip=1
    )
    assert report.skipped == 1 and report.steps == 7
    before, after = checkpoints(tmp_path / "run" / "checkpoints")[:2]
    assert (before.state.step, after.state.step, after.state.skipped) == (1, 2, 1)
    old, new = before.weights(), after.weights()
    assert all(torch.equal(old[name], new[name]) for name in old)


@pytest.mark.parametrize(("micro", "world"), [(3, 1), (8, 2), (4, 4), (16, 1)])
def test_a_global_batch_that_cannot_be_split_is_refused(micro: int, world: int) -> None:
    with pytest.raises(ConfigError, match=f"micro_batch {micro} x accumulation x {world} ranks"):
        split_evenly(recipe(micro), world)


def test_accumulation_is_what_is_left() -> None:
    assert [split_evenly(recipe(2), world) for world in (1, 2, 4)] == [4, 2, 1]


def test_rate_warms_up_and_decays_to_zero() -> None:
    stage = StageConfig(name="one", steps=1750, lr=3e-4, warmup=100)
    rates = [learning_rate(stage, step) for step in (0, 49, 99, 100, 925, 1749)]
    assert rates == pytest.approx([3e-6, 1.5e-4, 3e-4, 3e-4, 1.5e-4, 3e-4 / 1650])


def test_offloaded_adamw_is_adamw() -> None:
    stage = StageConfig(name="one", steps=9, warmup=0, lr=1e-2, weight_decay=0.1)
    start = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    cpu = torch.device("cpu")
    pair = [(ours, build_optimizer("offload", [ours], stage, cpu)),
            (theirs, build_optimizer("adamw", [theirs], stage, cpu))]  # fmt: skip
    for step in range(5):
        for parameter, optimizer in pair:
            parameter.grad = start * (step - 2)
            optimizer.step()
    assert isinstance(pair[0][1], OffloadedAdamW)
    assert torch.equal(ours, theirs) and not torch.equal(ours, start)


def test_fused_adamw_goes_on_from_a_checkpoint_of_the_other() -> None:
    """CUDA's optimizer, on the CPU: five steps of which the other took three, within rounding."""
    stage = StageConfig(name="one", steps=9, warmup=0, lr=1e-2, weight_decay=0.1)
    start = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    plain, fused = (torch.nn.Parameter(start.clone()) for _ in range(2))
    one, other = (
        build_optimizer("adamw", [p], stage, torch.device(kind))
        for p, kind in ((plain, "cpu"), (fused, "cuda"))
    )
    assert [o.param_groups[0]["fused"] for o in (one, other)] == [None, True]
    for step in range(5):
        if step == 3:
            fused.data.copy_(plain.detach())
            restore(other, {fused: "p"}, {k: v.clone() for k, v in state_of(one, {plain: "p"})})
        for parameter, optimizer in ((plain, one), (fused, other)):
            parameter.grad = start * (step - 2)
            if optimizer is one or step >= 3:
                optimizer.step()
    assert float(other.state[fused]["step"]) == 5
    torch.testing.assert_close(fused, plain, rtol=1e-6, atol=1e-7)


def test_offloaded_run_resumes_bit_equal(tmp_path: Path) -> None:
    wanted = recipe(8, optimizer="offload", run={"keep": 99})
    micro_run.run(tmp_path / "run", wanted)
    whole = checkpoints(tmp_path / "run" / "checkpoints")
    for later in whole[-2:]:  # back to step 4
        for file in later.path.iterdir():
            file.unlink()
        later.path.rmdir()
    micro_run.run(tmp_path / "run", wanted, resume=True)
    again = checkpoints(tmp_path / "run" / "checkpoints")[-1]
    assert again.state.files == whole[-1].state.files
