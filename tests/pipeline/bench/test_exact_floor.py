"""`svp bench superpixels --profile`: which operators count as what, and the bound. No timing is asserted."""

import pytest
import torch
from torch.nn import functional

from svp.pipeline.bench import exact_floor
from svp.pipeline.bench.exact_floor import (
    ARITHMETIC,
    INTEGERS,
    MOVES,
    PRODUCTS,
    SOFTMAX,
    FloorReport,
    OperatorSeconds,
)


@torch.inference_mode()
def test_operators_are_what_they_do_to_numbers() -> None:
    x, kernel, weight, bias = (
        torch.randn(size) for size in ((2, 3, 8, 8), (4, 3, 3, 3), (5, 8), (5,))
    )
    with (timed := OperatorSeconds()):
        functional.linear(x, weight, bias)
        functional.conv2d(x, kernel)
        x @ x
        functional.scaled_dot_product_attention(x, x, x)
        torch.softmax(x, -1)
        functional.gelu(x) + functional.layer_norm(x, (8,))
        functional.interpolate(x, (16, 16), mode="bilinear")
        x.transpose(1, 2).reshape(-1).contiguous()
        x[:, 0] = 1.0
        (x > 0).sum()
        torch.arange(5) * 2
    groups: dict[str, set[str]] = {}
    for group, name in timed.seconds:
        groups.setdefault(group, set()).add(name)
    assert {"addmm", "convolution", "matmul"} <= groups[PRODUCTS] and len(groups[PRODUCTS]) == 4
    assert groups[SOFTMAX] == {"_softmax"}
    assert groups[ARITHMETIC] == {"gelu", "native_layer_norm", "add", "upsample_bilinear2d"}
    assert {"clone", "transpose", "select"} <= groups[MOVES]
    assert {"gt", "sum", "arange", "mul"} <= groups[INTEGERS]


def test_the_bound_is_what_remains_if_all_else_costs_nothing() -> None:
    groups = {PRODUCTS: 3.0, SOFTMAX: 1.0, ARITHMETIC: 1.0, MOVES: 2.0, INTEGERS: 1.0}
    report = FloorReport(4, 10.0, groups, {"bmm": 2.5, "clone": 2.0})
    assert report.fixed == 5.0 and report.limit == 2.0
    lines = report.lines()
    assert "2.500 CPU s per scene" in lines[0]
    assert [line.split()[-1] for line in lines[1:7]] == ["bits"] * 3 + ["20.0%", "10.0%", "20.0%"]
    assert "bmm 25%, clone 20%" in lines[7]
    assert lines[8].startswith("50% ") and "2.00 times as fast" in lines[8]
    assert report.to_json()["limit"] == 2.0


def test_a_profile_sees_the_models_of_exact_precompute() -> None:
    pytest.importorskip("cv2")
    report = exact_floor.profile(1)
    assert {"matmul", "addmm", "_softmax", "upsample_bilinear2d"} <= set(report.operators)
    assert all(seconds > 0 for seconds in report.groups.values())
    assert report.total > 0 and len(report.lines()) == 9
