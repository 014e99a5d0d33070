"""Weights that are cast once, and int8 weights of the language model."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from svp.model.batch import Batch
from svp.model.inference.int8_linear import Int8Linear, use_int8
from svp.model.inference.precision import arithmetic, cast_weights, input_dtype
from svp.model.language.adapters import LINEARS, Lora
from svp.model.language.load import restore_buffers
from svp.model.ris import RisModel

Model = Callable[..., RisModel]
Batches = Callable[..., Batch]


@pytest.mark.parametrize("projector", ["svp", "mlp"])
def test_cast_weights_need_no_autocast(micro: Model, batch: Batches, projector: str) -> None:
    """Both kinds of bfloat16 are near float32; a random model's masks are nearly flat."""
    model, given = micro(projector, lora=Lora(2, 4)).eval(), batch((1, 2))

    def masks() -> torch.Tensor:
        with torch.no_grad(), arithmetic(model):
            found = model.predict(given.to("cpu", input_dtype(model)))
        return torch.cat([x.flatten() for x in found])

    exact = masks()
    assert not arithmetic(model)._enabled
    model.lm.to(torch.bfloat16)
    restore_buffers(model.lm)
    buffers = {name: value.dtype for name, value in model.named_buffers()}
    assert arithmetic(model)._enabled and input_dtype(model) == torch.float32
    by_autocast = masks()
    cast_weights(model)
    assert not arithmetic(model)._enabled and input_dtype(model) == torch.bfloat16
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert {n: b.dtype for n, b in model.named_buffers()} == buffers
    cast = masks()
    assert cast.dtype == torch.float32
    size = exact.std()
    assert (by_autocast - exact).std() < 0.1 * size and (cast - exact).std() < 0.2 * size


@pytest.mark.parametrize("lora", [None, Lora(2, 4)])
def test_int8_weights_are_near_the_exact_ones(
    micro: Model, batch: Batches, lora: Lora | None
) -> None:
    """Each weight is at most half a step of its channel away; adapters and head stay."""
    model, given = micro("svp", lora=lora).eval(), batch((1, 2))
    linears = {
        name: module.weight.clone()
        for name, module in model.lm.model.layers.named_modules()
        if isinstance(module, nn.Linear) and "lora" not in name
    }
    with torch.no_grad():
        exact = torch.cat([x.flatten() for x in model.predict(given)])
    use_int8(model.lm)
    kept = {n: m for n, m in model.lm.named_modules() if isinstance(m, Int8Linear)}
    assert len(kept) == len(linears) == 2 * len(LINEARS)
    for name, weight in linears.items():
        made = kept[f"model.layers.{name}"]
        assert made.weight.dtype == torch.int8
        step = weight.abs().amax(1, keepdim=True) / 127
        error = (made.weight.float() * made.scale[:, None] - weight).abs()
        assert (error <= 0.51 * step).all() and error.max() > 0
        assert made.weight.abs().max() == 127
    with torch.no_grad():
        found = torch.cat([x.flatten() for x in model.predict(given)])
    assert 0 < (found - exact).std() < 0.02 * exact.std()
    cast_weights(model)
    assert next(iter(kept.values())).weight.dtype == torch.int8
    assert type(model.lm.lm_head) is nn.Linear
    assert lora is None or any("lora_A" in name for name, _ in model.lm.named_modules())


def test_int8_weights_of_a_channel_of_zeros_are_zeros() -> None:
    linear = nn.Linear(4, 3)
    with torch.no_grad():
        linear.weight[1] = 0
        got = Int8Linear(linear)(torch.ones(2, 4))
        want = linear(torch.ones(2, 4))
    assert (got[:, 1] == want[:, 1]).all()
    torch.testing.assert_close(got, want, rtol=0, atol=0.02)
