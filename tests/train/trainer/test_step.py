"""One optimizer step: what it reads of the device, and what it does with numbers that are not finite."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from support.micro_ris import micro_batch, micro_model
from support.micro_run import micro_recipe
from svp.model.batch import Batch
from svp.model.losses import Weights
from svp.train.bench.host_syncs import host_syncs
from svp.train.trainer.prepare import make_accelerator
from svp.train.trainer.step import StepResult, copied, optimizer_step, sync_counts
from svp.train.trainer.strategies.base import Strategy

Made = tuple[Strategy, list[Batch]]


@pytest.fixture
def made() -> Made:
    """A strategy, and three micro-batches as the loader gives them."""
    model = micro_model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, foreach=True)
    strategy = Strategy(make_accelerator(micro_recipe(), "cpu"), model, optimizer)
    shapes: Sequence[tuple[int, ...]] = ((2, 1), (1, 3), (2, 2))
    return strategy, [micro_batch(turns).with_layout() for turns in shapes]


def step(made: Made) -> StepResult:
    strategy, batches = made
    counts = sync_counts(strategy.accelerator, batches, 0)
    return optimizer_step(strategy, batches, counts, Weights(), 0.1, 1.0)


def test_clicks_are_part_of_the_loss_and_of_the_record_where_they_are_asked_for(made: Made) -> None:
    strategy, batches = made
    assert "click" not in step(made).values()
    strategy.model.learns_clicks = True
    counts = sync_counts(strategy.accelerator, batches, 0)
    results = [
        optimizer_step(strategy, batches, counts, Weights(click=weight), 0.0, 1.0)
        for weight in (0.0, 3.0)
    ]
    click = results[0].values()["click"]
    assert click is not None and click > 0 and results[1].more["click"] == pytest.approx(click)
    assert results[1].loss == pytest.approx(results[0].loss + 3 * click, rel=1e-5)
    assert results[1].norm > results[0].norm


def test_a_step_reads_the_device_once(made: Made) -> None:
    """However many micro-batches it has; the losses, the gradient's norm and what failed."""
    strategy, batches = made
    counts = sync_counts(strategy.accelerator, batches, 0)
    step(made)
    with host_syncs() as lines:
        result = optimizer_step(strategy, batches, counts, Weights(), 0.1, 1.0)
    assert sum(lines.values()) == 1 and next(iter(lines)).startswith("train/trainer/strategies/")
    assert result.finite and not result.bad


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_names_its_micro_batch(made: Made, value: float) -> None:
    strategy, batches = made
    before = [p.detach().clone() for p in strategy.plain.parameters()]
    batches[1].sam[0, 0] = value
    result = step(made)
    assert result.bad == (1,) and not result.finite
    assert all(map(torch.equal, before, strategy.plain.parameters()))
    assert all(p.grad is None for p in strategy.plain.parameters())


def test_a_gradient_that_is_not_finite_is_not_taken(made: Made) -> None:
    strategy, _ = made
    weight = next(iter(strategy.plain.projector.parameters()))
    weight.register_hook(lambda grad: grad * math.inf)
    before = weight.detach().clone()
    result = step(made)
    assert math.isfinite(result.loss) and not math.isfinite(result.norm) and result.bad == ()
    assert not result.finite and torch.equal(weight, before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_copies_beside_the_work_are_whole(made: Made) -> None:
    batches = [batch.pinned() for batch in made[1]]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found: list[Tensor] = [batch.sam * 1 for batch in copied(batches, torch.device("cuda"))]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for value, batch in zip(found, batches, strict=True):
        assert torch.equal(value.cpu(), batch.sam)
