"""`SVPProjector` equals SVP on a cache's arrays; a toy LLaVA with it learns to answer."""

import importlib.util
import inspect
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import svp
from support.superpixel_grid import cells
from svp.model.projectors.svp.drop_in import SVPProjector
from svp.pipeline.errors import ConfigError
from svp.pipeline.masks.encoder_view import View

SMALL = {"num_queries": 2, "sspe_dim": 8, "sspe_heads": 2, "sspe_blocks": 1, "sspe_ffn": 16,
         "ssa_heads": 2, "ssa_blocks": 1, "ssa_ffn": 16, "mlp_hidden": 16}  # fmt: skip


def projector() -> SVPProjector:
    torch.manual_seed(0)
    return SVPProjector(in_dim=12, llm_dim=20, size=64, **SMALL).eval()


def test_each_image_stands_alone_and_the_cover_is_exact() -> None:
    """Padding changes nothing; on the patch grid a partition covers every patch once."""
    made, found = projector(), [cells((48, 64), 3, 3), cells((80, 40), 4, 5)]
    assert [len(one) for one in found] == [9, 20]
    features = torch.randn(2, 16, 12, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        tokens, valid = made(features, found)
        single, _ = made(features[:1], found[:1])
    assert valid.sum(1).tolist() == [len(one) for one in found]
    assert torch.allclose(tokens[0, : len(found[0])], single[0], atol=1e-5)
    assert (tokens[~valid] == 0).all()
    masks, _ = made.masks(found, (4, 4), torch.device("cpu"))
    assert torch.allclose(masks.cover.sum(1), torch.ones(2, 16), atol=2e-3)
    assert made.view == View("squash", 64) and masks.small.shape[2:] == (64, 64)
    assert (masks.small.flatten(2).sum(1) <= 1).all(), "a partition does not overlap"


def test_what_does_not_fit_is_refused() -> None:
    found = [cells((32, 32), 2, 2)]
    for shape in ((2, 16, 12), (1, 15, 12)):
        with pytest.raises(ConfigError, match="superpixels of 1 image"):
            projector()(torch.zeros(shape), found)


@pytest.fixture(scope="module")
def vqa() -> ModuleType:
    path = Path(svp.__file__).parent / "workflows" / "examples" / "vqa.py"
    spec = importlib.util.spec_from_file_location("vqa", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["vqa"] = module  # dataclasses look their module up
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    spec.loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


@pytest.mark.timeout(900)
def test_a_toy_llava_learns_to_answer(vqa: ModuleType) -> None:
    """From nothing, on 30 scenes: well above the 1 in 8 of chance, and it needs the picture."""
    asked = vqa.questions(30)
    assert len(asked.ids) > 20
    model, losses = vqa.train(asked, 150)
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
    right = vqa.accuracy(model, asked)
    assert right > 0.5
    blind = replace(asked, features=torch.zeros_like(asked.features))
    assert vqa.accuracy(model, blind) < right - 0.2


def test_putting_it_in_takes_under_twenty_lines(vqa: ModuleType) -> None:
    lines = inspect.getsource(vqa.Answerer).splitlines()
    code = [line for line in lines if line.strip() and not line.strip().startswith('"""')]
    assert len(code) < 20
