"""Budgets hold at the paper's shapes, and the counters see what they are for."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from svp.model.inference.shared_prefix import predict_shared
from svp.pipeline.bench.kernel_time import DeviceRates
from svp.pipeline.bench.operators import Kernel, KernelCounter, Kernels
from svp.train.bench import launches, live_bound
from svp.train.bench.budgets import BUDGETS
from svp.train.bench.fake_model import CudaRules, fake_batch, fake_model
from svp.train.bench.host_syncs import host_syncs
from svp.train.bench.inputs import cached_batch
from svp.train.bench.launches import (
    ANSWER,
    MIXED,
    MLP_ANSWER,
    TRAINING,
    Counted,
    LaunchReport,
)
from svp.train.bench.presets import PRESETS

ONE_LAYER = replace(PRESETS["paper"], layers=1)


@pytest.fixture(scope="module")
def training() -> tuple[Counted, float]:
    return launches.count(TRAINING)


@pytest.fixture(scope="module")
def answer() -> Counted:
    return launches.count_once(ANSWER, ONE_LAYER)


@pytest.fixture(scope="module")
def syncs() -> dict[str, dict[str, int]]:
    return launches.sync_lines()


@pytest.fixture(scope="module")
def counts(
    training: tuple[Counted, float], answer: Counted, syncs: dict[str, dict[str, int]]
) -> dict[str, float]:
    step, layer = training
    mixed = launches.count_once(MIXED, ONE_LAYER)
    found = launches.operator_counts(step, mixed, answer, layer)
    return found | launches.sync_counts(syncs) | launches.compiled_counts()


BREAKS = [name for name in BUDGETS if name.startswith("graph breaks")]


@pytest.mark.parametrize("name", [name for name in BUDGETS if name not in BREAKS])
def test_no_budget_is_exceeded_and_none_is_slack(name: str, counts: dict[str, float]) -> None:
    """Whoever lowers a count lowers its limit, so that it stays low."""
    budget = BUDGETS[name]
    assert 0.98 * budget.limit <= counts[name] <= budget.limit


@pytest.mark.slow
def test_graph_breaks_stay_in_their_budgets() -> None:
    found = launches.break_counts()
    assert list(found) == BREAKS
    for name, count in found.items():
        assert count == BUDGETS[name].limit, name


def test_syncs_are_told_by_source_line(syncs: dict[str, dict[str, int]]) -> None:
    for lines in syncs.values():
        for line in lines:
            path, number = line.rsplit(":", 1)
            assert path.startswith(("model/", "transformers/")) and int(number) > 0


@pytest.mark.parametrize("name", ["forward", "predict", "predict_shared"])
def test_no_pass_reads_a_value_of_the_device(name: str) -> None:
    """Every tensor is fake, so that whatever would read one raises."""
    fake = FakeTensorMode()
    model = fake_model(launches.SMALL, "svp", 0, fake)
    batch = cached_batch(launches.SMALL, "svp", 4, sentences=2 if name != "predict_shared" else 1)
    batch = launches.of_sizes(batch, 2)
    if name == "predict_shared":
        batch = launches.about_one_image(batch)
    moved = fake_batch(batch, fake)
    with fake:
        moved = moved.to("cpu", torch.float32)
        if name == "forward":
            assert model(moved).masks == 8
        elif name == "predict":
            found = model.predict(moved)
            assert [tuple(x.shape) for x in found] == [(2, *size) for size in batch.sizes]
        else:
            assert len(predict_shared(model, moved)) == 4


def test_layers_are_counted_as_if_all_were_there(answer: Counted) -> None:
    work = replace(ANSWER, projector="mlp")
    small = replace(ONE_LAYER, hidden=64, heads=2, intermediate=128, layers=3)
    found, _ = launches.count(work, small)
    assert found == launches.count_once(work, small)
    assert found.parts["LLM"].operators > answer.parts["LLM"].operators


@pytest.mark.parametrize(("wait", "count"), [
    (lambda x: x.sum().item(), 1),
    (lambda x: x.tolist(), 1),
    (lambda x: bool(x[0] > 0), 1),
    (lambda x: int(x[0]), 1),
    (lambda x: x.nonzero(), 1),
    (lambda x: x[x > 0], 1),
    (lambda x: x.clone().__setitem__(x > 0, 0.0), 1),
    (lambda x: torch.tensor([1.0], device=x.device), 1),
    (lambda x: torch.tensor([], device=x.device), 0),
    (lambda x: torch.bincount(x.long()), 1),
    (lambda x: x.repeat_interleave(x.long()), 1),
    (lambda x: x.repeat_interleave(x.long(), output_size=3), 0),
    (lambda x: x.repeat_interleave(2), 0),
    (lambda x: torch.where(x > 0), 1),
    (lambda x: torch.where(x > 0, x, -x)[torch.tensor([0, 1])], 0),
    (lambda x: len(x) + x.shape[0] + x.sum(), 0),
])  # fmt: skip
def test_what_waits_for_the_gpu_is_counted(wait: Callable[[Tensor], Any], count: int) -> None:
    x = torch.ones(3)
    with host_syncs() as lines:
        wait(x)
    assert sum(lines.values()) == count
    first = wait.__code__.co_firstlineno
    assert all(line.endswith(f"test_launches.py:{first}") for line in lines)


def test_autocast_and_dropout_are_those_of_a_gpu() -> None:
    x = torch.ones(2, 4, dtype=torch.bfloat16)
    with CudaRules(), KernelCounter() as counter, torch.autocast("cpu", torch.bfloat16):
        assert F.layer_norm(x, (4,)).dtype == torch.float32
        assert x.pow(2).dtype == x.exp().dtype == torch.float32
        assert (x + x).dtype == torch.bfloat16
        F.dropout(x, 0.1, training=False)
        F.dropout(x, 0.1)
        counter.lap("all")
    names = [kernel.name for kernel in counter.parts["all"].elements()]
    assert names.count("native_dropout") == 1 and "bernoulli_" not in names
    with CudaRules():
        assert F.layer_norm(x, (4,)).dtype == torch.bfloat16


def test_rms_norm_is_one_operator_in_both_directions_as_on_a_gpu() -> None:
    """Under autocast it is float32; a backward pass that calls it again meets the same rules."""
    with FakeTensorMode(), CudaRules(), KernelCounter() as counter:
        x = torch.ones(2, 4, dtype=torch.bfloat16, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            assert F.rms_norm(x, (4,), x[0], 1e-6).dtype == torch.float32
        counter.lap("autocast")
        again = checkpoint(F.rms_norm, x, (4,), x.detach()[0], 1e-6, use_reentrant=False)
        again.sum().backward()
        counter.lap("own")
    names = [kernel.name for kernel in counter.parts["own"].elements()]
    assert names.count("_fused_rms_norm") == 2
    assert names.count("_fused_rms_norm_backward") == 1
    assert not {"pow", "mean", "rsqrt"} & {*names}


def test_an_exceeded_budget_fails_the_command() -> None:
    name = next(iter(BUDGETS))
    kernels = {"a step": {"LLM": Kernels({Kernel("mm", 10**12, 10**9): 2})}}
    kernels |= {work.title: kernels["a step"] for work in (ANSWER, MLP_ANSWER)}
    held = LaunchReport(kernels, {"forward": {}}, {name: BUDGETS[name].limit})
    assert held.exit_code == 0 and "- host syncs, forward: none" in held.lines()
    above = LaunchReport(
        kernels, {"forward": {"model/ris.py:1": 2}}, {name: BUDGETS[name].limit + 1}
    )
    assert above.exit_code == 1 and above.to_json()["exceeded"] == [name]
    text = "\n".join(above.lines())
    assert f"- BUDGET EXCEEDED: {name}" in text and "model/ris.py:1 x2" in text
    assert "| a step | LLM | 2 | 0 | 2.0 | 2.000 | 3.2 | 0.0 | 3.2 |" in text


def test_both_encoders_bound_the_live_ratio() -> None:
    """On a device of 1 TFLOP/s with endless memory, so that times are operations."""
    rates = DeviceRates(products=1e12, memory=float("inf"), launch=0)
    mlp, svp = (Kernels({Kernel("mm", n * 10**12, 1): 1}) for n in (9, 1))
    found = live_bound.bound(mlp, svp, rates)
    assert found.encoders == pytest.approx(5.96 + 0.386)  # SAM ViT-H, DINOv2-L
    assert found.ratio == pytest.approx((9 + 6.346) / (1 + 6.346))
    assert found.grid == pytest.approx(16 * found.call) and found.grid == pytest.approx(3.70688)
    assert found.with_grid == pytest.approx((9 + 6.346) / (1 + 6.346 + 3.70688))
    assert any(line.startswith("| RTX 3090 |") for line in live_bound.lines(mlp, svp))
