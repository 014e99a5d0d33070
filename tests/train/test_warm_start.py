"""A projector's start from the pretrained one: layers that fit are copied, others imitate."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from svp.model.batch import Visual
from svp.model.projectors import Projector, build_projector
from svp.model.projectors.grid import cells
from svp.train import warm_start
from svp.train.data.expression_table import Entry

C, D, GRID = 12, 20, (4, 4)
IMAGES = [Entry("scenes", i, 0, i, 8, 8) for i in range(6)]


class Fixed:
    """Random features of six images; with superpixels if asked."""

    def __init__(self, masks: bool) -> None:
        made = torch.Generator().manual_seed(0)
        self.patches = torch.randn(6, 16, C, generator=made).half()
        self.cover = (torch.rand(6, 3, 16, generator=made) > 0.5).half() if masks else None
        self.small = torch.randint(0, 2, (6, 3, 8, 8), generator=made, dtype=torch.uint8)

    def read(
        self, entries: Sequence[Entry], keys: Sequence[int | None]
    ) -> tuple[Visual, Tensor, tuple[tuple[int, int], ...]]:
        rows = [entry.row for entry in entries]
        multi = self.patches[rows].repeat(1, 1, 4)
        visual = Visual(self.patches[rows], GRID, multi=multi)
        if self.cover is not None:
            valid = torch.ones(len(rows), 3, dtype=torch.bool)
            visual = Visual(self.patches[rows], GRID, self.cover[rows], self.small[rows], valid)
        return visual, torch.empty(0), ((8, 8),) * len(rows)


def projector(name: str, seed: int = 0, **options: Any) -> Projector:
    torch.manual_seed(seed)
    return build_projector(name, in_dim=C, llm_dim=D, grid=GRID, **options)


SVP: dict[str, Any] = {
    "num_queries": 2, "sspe_dim": 8, "sspe_heads": 2, "sspe_blocks": 1, "sspe_ffn": 16,
    "ssa_heads": 2, "ssa_blocks": 1, "ssa_ffn": 16, "mlp_hidden": 32,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pixel_shuffle", {"r": 2}),
        ("qformer", {"tokens": 4, "hidden": 16, "layers": 2, "heads": 2, "ffn": 32}),
        ("svp", SVP),
    ],
)
def test_imitation_brings_the_tokens_to_the_teachers(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_start, "STEPS", 120)
    teacher, visuals = projector("mlp", 1), Fixed(name == "svp")
    made = []
    for _ in range(2):
        learner = projector(name, 2, **options)
        learner.requires_grad_(False)
        line = warm_start.imitate(learner, teacher, visuals, IMAGES, seed=3)
        first, last = (
            float(word) for word in line.split("error ")[1].split(" of")[0].split(" -> ")
        )
        assert last < 0.5 * first
        assert not any(p.requires_grad for p in learner.parameters())
        made.append(learner.state_dict())
    assert all(torch.equal(made[0][key], made[1][key]) for key in made[0])


def boxes(count: int) -> Fixed:
    """Images of three boxes each on features that are noise: only the masks tell the place."""
    made, visuals = torch.Generator().manual_seed(1), Fixed(False)
    first, second = (torch.randint(0, 8, (count, 3, 2), generator=made) for _ in range(2))
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    rows, cols = ((low[..., k, None] <= torch.arange(8)) & (torch.arange(8) <= high[..., k, None])
                  for k in range(2))  # fmt: skip
    visuals.small = (rows[..., :, None] & cols[..., None, :]).to(torch.uint8)
    visuals.cover = torch.nn.functional.avg_pool2d(visuals.small.float(), 2).flatten(2).half()
    visuals.patches = torch.randn(count, 16, C, generator=made).half()
    return visuals


def test_who_sees_masks_learns_the_place_and_who_does_not_cannot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(warm_start, "STEPS", 200)
    monkeypatch.setattr(warm_start, "LOUDNESS", 8.0)
    teacher, visuals, left = projector("mlp", 1), boxes(200), {}
    images = [Entry("scenes", i, 0, i, 8, 8) for i in range(200)]
    for variant in ("none", "mask_mlp"):
        learner = projector("svp", 2, **SVP | {"ssa_variant": "none", "sspe_variant": variant})
        line = warm_start.imitate(learner, teacher, visuals, images, seed=3)
        left[variant] = float(line.split("-> ")[1].split(" of")[0])
    assert left["mask_mlp"] < 0.5 * left["none"], left


def test_only_a_projector_with_all_layers_takes_them() -> None:
    teacher, same, other = projector("mlp", 1), projector("mlp", 2), projector("mlp", 2, hidden=7)
    assert warm_start.copy_layers(same, teacher.state_dict())
    assert all(torch.equal(t, same.state_dict()[n]) for n, t in teacher.state_dict().items())
    before = {n: t.clone() for n, t in other.state_dict().items()}
    assert not warm_start.copy_layers(other, teacher.state_dict())
    assert all(torch.equal(t, other.state_dict()[n]) for n, t in before.items())


@given(st.integers(0, 2**31 - 1))
def test_the_place_code_tells_middle_and_size(seed: int) -> None:
    """Each sign has its own direction: what was told can be read back by a linear map."""
    made = torch.Generator().manual_seed(seed)
    height, width, channels = 6, 8, 64
    share = torch.rand(5, height * width, generator=made) ** 4
    share = share / share.sum(1, keepdim=True)
    area = torch.rand(5, generator=made) * 0.9 + 0.05
    code = warm_start.place_code(share, area, (height, width), channels)
    assert code.shape == (5, channels)
    bare = warm_start.place_code(share, area, (height, width), channels + 32)
    told = [c @ torch.linalg.pinv(basis(c.shape[1])) for c in (code, bare)]
    assert torch.allclose(*told, atol=1e-4)  # the same signs, whatever the width
    x = (torch.arange(width) + 0.5) / width
    columns = share.view(5, height, width).sum(1)
    assert torch.allclose(told[0][:, 8], columns @ (torch.pi * x).cos(), atol=1e-4)
    assert torch.allclose(told[0][:, -1], (area.log() + 3) / 1.5, atol=1e-4)


def basis(channels: int) -> Tensor:
    """(19,channels) the directions of the signs: rows of a DCT."""
    angle = torch.pi / channels * (torch.arange(channels) + 0.5)
    rows = torch.outer(torch.arange(1, 20), angle).cos()
    return warm_start.LOUDNESS * rows * (2 / channels) ** 0.5


@given(st.integers(1, 8), st.integers(1, 8), st.data())
def test_cells_share_out_all_patches(height: int, width: int, data: st.DataObject) -> None:
    tokens = data.draw(st.integers(1, height * width))
    share = cells(tokens, (height, width))
    assert share.shape == (tokens, height * width)
    assert torch.equal(share.sum(0), torch.ones(height * width))  # each patch in one cell
    assert (share.sum(1) > 0).all()  # no cell without patches


def test_sixteen_cells_are_windows() -> None:
    share = cells(16, (16, 16)).view(16, 16, 16)
    assert share[5].nonzero().tolist() == [[y, x] for y in range(4, 8) for x in range(4, 8)]
