"""Weights cast once: the numbers of a module of that dtype, gradients in float32, and no others."""

import pytest
import torch
from torch import Tensor, nn

from svp.model.mixed_precision import weights_cast
from svp.model.projectors import PROJECTORS, MaskInput, Projector, build_projector
from svp.pipeline.bench.operators import KernelCounter

GRID = (8, 8)
# Of parts in float32, of choices in float64, and of PVTC's RMSNorm, which the CPU computes in steps.
CASTS = {
    "d_abstractor": 56, "pvtc": 68, "svp": 32, "tokenpacker": 10, "divt": 11, "tome": 35, "mqt": 12,
    "adatok": 9,
}  # fmt: skip


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(3, 4), nn.Linear(3, 4)
        self.table = nn.Parameter(torch.rand(3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.used(x) * self.table.sum()
        return out


def bfloat16() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


def test_values_and_gradients_are_those_of_a_module_of_that_dtype() -> None:
    torch.manual_seed(0)
    module, x = Two(), torch.randn(5, 3)
    half = Two()
    half.load_state_dict(module.state_dict())
    half.to(torch.bfloat16)
    with bfloat16(), weights_cast(module):
        assert not torch.is_autocast_enabled("cpu")
        got = module(x.bfloat16())
    want = half(x.bfloat16())
    assert torch.equal(got, want)
    got.sum().backward()
    want.sum().backward()
    for (name, ours), theirs in zip(module.named_parameters(), half.parameters(), strict=True):
        assert isinstance(ours, nn.Parameter) and ours.dtype == torch.float32
        if name.startswith("unused"):
            assert ours.grad is None and theirs.grad is None
        else:
            assert ours.grad is not None and theirs.grad is not None
            assert ours.grad.dtype == torch.float32
            assert torch.equal(ours.grad, theirs.grad.float())


def test_what_is_kept_stays_as_it_is_and_errors_put_all_back() -> None:
    module = Two()
    before = dict(module.named_parameters())
    kept = frozenset({"table"})
    with pytest.raises(ValueError, match="stop"), bfloat16(), weights_cast(module, kept):
        assert module.table is before["table"]
        assert module.used.weight.dtype == torch.bfloat16
        raise ValueError("stop")
    assert all(p is before[name] for name, p in module.named_parameters())


def test_nothing_is_cast_without_autocast_nor_what_zero_has_split() -> None:
    module = Two()
    with weights_cast(module):
        assert module.used.weight.dtype == torch.float32
    module.table.ds_id = 7  # type: ignore[attr-defined]
    with bfloat16(), weights_cast(module):
        assert torch.is_autocast_enabled("cpu") and module.used.weight.dtype == torch.float32


NAMES = [name for name in PROJECTORS if name != "fusion"]


def built(name: str) -> Projector:
    torch.manual_seed(0)
    return build_projector(name, in_dim=32, llm_dim=64, grid=GRID)


def inputs() -> dict[str, Tensor | MaskInput]:
    torch.manual_seed(1)
    cover = torch.rand(2, 3, 64).softmax(1)
    return {
        "patches": torch.randn(2, 64, 32),
        "cls": torch.randn(2, 32),
        "multi": torch.randn(2, 64, 128),
        "masks": MaskInput(cover, (torch.rand(2, 3, 8, 8) > 0.5).to(torch.uint8)),
        "mask_valid": torch.ones(2, 3, dtype=torch.bool),
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_projectors_step_casts_its_weights_together(name: str) -> None:
    """Not at every use: a cast of them all, one of their gradients, and few of inputs."""
    model = built(name).eval()  # dropout in attention is float32 on the CPU
    with KernelCounter() as counter:
        with bfloat16():
            tokens, _ = model(grid=GRID, **inputs())
        torch.autograd.backward(tokens.float().sum())
        counter.lap("all")
    assert counter.parts["all"].casts <= CASTS.get(name, 8)


@pytest.mark.parametrize("name", NAMES)
def test_a_projector_under_autocast_gives_its_float32_numbers_rounded(name: str) -> None:
    model = built(name).eval()
    want, _ = model(grid=GRID, **inputs())
    with bfloat16():
        got, _ = model(grid=GRID, **inputs())
    assert got.dtype == torch.bfloat16
    assert (got.float() - want).norm() < 0.03 * want.norm()
