"""`Projector.compile_project`: the same numbers for batches of any size, by one compilation."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from svp.model.projectors import PROJECTORS, MaskInput, Projector, build_projector

GRID = (8, 8)
NAMES = [name for name in PROJECTORS if name != "fusion"]


def built(name: str) -> Projector:
    torch.manual_seed(0)
    return build_projector(name, in_dim=32, llm_dim=64, grid=GRID).train()


def inputs(images: int, superpixels: int) -> dict[str, Any]:
    torch.manual_seed(images)
    cover = torch.rand(images, superpixels, 64).softmax(1)
    small = (torch.rand(images, superpixels, 8, 8) > 0.5).to(torch.uint8)
    return {
        "patches": torch.randn(images, 64, 32),
        "grid": GRID,
        "cls": torch.randn(images, 32),
        "multi": torch.randn(images, 64, 128),
        "masks": MaskInput(cover, small, torch.arange(images * superpixels)),
        "mask_valid": torch.ones(images, superpixels, dtype=torch.bool),
    }


def step(model: Projector, given: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    torch.manual_seed(5)  # of dropout
    tokens, _ = model(**given)
    tokens.square().mean().backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return tokens.detach(), grads


@pytest.mark.parametrize("name", NAMES)
def test_tokens_and_gradients_are_the_same_at_every_size(name: str) -> None:
    torch._dynamo.reset()
    plain, compiled = built(name), built(name)
    compiled.compile_project("eager")
    assert list(plain.state_dict()) == list(compiled.state_dict())
    for size in ((2, 3), (3, 5)):
        counters.clear()
        want, wanted = step(plain, inputs(*size))
        got, found = step(compiled, inputs(*size))
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
        graphs = counters["stats"]["unique_graphs"]
        assert graphs > 0 if size == (2, 3) else graphs == 0


def test_a_copy_computes_with_its_own_weights_and_evaluation_is_not_compiled() -> None:
    torch._dynamo.reset()
    model = built("mlp")
    model.compile_project("eager")
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
    given = inputs(2, 3)
    assert not other(**given)[0].any() and model(**given)[0].any()
    counters.clear()
    torch._dynamo.reset()
    model.eval()(**given)
    assert not counters["stats"]
