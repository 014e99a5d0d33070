"""Strict key reports: every fault is named, and nothing partial is ever loaded."""

import pytest
import torch
from torch import nn

from svp.pipeline.errors import WeightsError
from svp.pipeline.weights.key_report import TensorSpec, check_keys, expected_of, load_into


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_perfect_match() -> None:
    expected = expected_of(model())
    assert expected["1.num_batches_tracked"] == TensorSpec((), "int64")
    report = check_keys(model().state_dict(), expected)
    assert report.ok
    assert str(report) == "7/7 tensors, 0 missing, 0 unexpected"
    assert report.details() == ""


def test_every_fault_is_named() -> None:
    state = model().state_dict()
    del state["0.bias"]
    state["extra\x1b[31m"] = torch.zeros(1)
    state["0.weight"] = torch.zeros(3, 4)
    state["1.weight"] = torch.zeros(4, dtype=torch.float64)
    report = check_keys(state, expected_of(model()))
    assert str(report) == "4/7 tensors, 1 missing, 1 unexpected, 2 wrong"
    assert report.missing == ("0.bias",)
    with pytest.raises(WeightsError) as caught:
        report.require("f.pth", "Do this")
    message = str(caught.value)
    for part in ("f.pth", "0.bias", "has 3x4 float32, needs 4x3 float32", "float64", "Do this"):
        assert part in message
    assert message.isprintable()


def test_the_list_of_names_is_bounded() -> None:
    state = {f"k{i}": torch.zeros(1) for i in range(5000)}
    details = check_keys(state, {}).details()
    assert "and 4992 more" in details
    assert len(details) < 300


def test_half_precision_only_where_allowed() -> None:
    state = {"x": torch.zeros(2, dtype=torch.bfloat16)}
    expected = {"x": TensorSpec((2,), "float32")}
    assert not check_keys(state, expected).ok
    assert check_keys(state, expected, any_float=True).ok
    assert not check_keys({"x": torch.zeros(2, dtype=torch.int64)}, expected, any_float=True).ok


@pytest.mark.parametrize("on_meta", [False, True])
def test_load_casts_and_freezes(on_meta: bool) -> None:
    source = model()
    with torch.device("meta" if on_meta else "cpu"):
        target = model()
    state = {
        name: value.half() if value.is_floating_point() else value
        for name, value in source.state_dict().items()
    }
    load_into(target, state, "f", "", any_float=True)
    for name, value in target.state_dict().items():
        assert torch.equal(value, state[name].to(value.dtype))
        assert value.dtype == source.state_dict()[name].dtype
    assert not target.training
    assert not any(parameter.requires_grad for parameter in target.parameters())


def test_partial_state_changes_nothing() -> None:
    target = model()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    state = {name: value + 1 for name, value in before.items() if name != "0.bias"}
    with pytest.raises(WeightsError, match="1 missing"):
        load_into(target, state, "f", "advice")
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_weights_are_refused(value: float) -> None:
    state = model().state_dict()
    state["0.bias"] = torch.full((4,), value)
    with pytest.raises(WeightsError, match=r"NaN or infinity in 1 tensor: 0\.bias"):
        load_into(model(), state, "f", "advice")
