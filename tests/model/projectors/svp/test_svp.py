"""SVP as a whole: size, symmetry, padding, stages and variants."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from svp.model.projectors import MaskInput, build_projector
from svp.model.projectors.svp import SVP
from svp.model.projectors.svp.sspe import SSPE
from svp.model.projectors.svp.sspe_variants import VARIANTS
from svp.pipeline.errors import ConfigError

C, D, GRID = 24, 20, (4, 6)
SMALL: dict[str, Any] = {
    "num_queries": 3,
    "sspe_dim": 16,
    "sspe_heads": 4,
    "sspe_ffn": 24,
    "ssa_heads": 4,
    "ssa_ffn": 32,
    "mlp_hidden": 28,
}


def small(seed: int = 0, **options: Any) -> SVP:
    torch.manual_seed(seed)
    model = build_projector("svp", in_dim=C, llm_dim=D, **{**SMALL, **options}).double()
    assert isinstance(model, SVP)
    return model


def inputs(seed: int, counts: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """patches, cover, masks, valid of images with these numbers of superpixels."""
    torch.manual_seed(seed)
    b, n, p = len(counts), max(counts), GRID[0] * GRID[1]
    valid = torch.arange(n) < torch.tensor(counts)[:, None]
    real = valid.unsqueeze(-1)
    masks = (torch.rand(b, n, 8, 12) > 0.6).to(torch.uint8) * real.unsqueeze(-1)
    cover = torch.rand(b, n, p, dtype=torch.float64) * real
    return torch.randn(b, p, C, dtype=torch.float64), cover, masks.to(torch.uint8), valid


def run(model: SVP, patches: Tensor, cover: Tensor, masks: Tensor, valid: Tensor) -> Tensor:
    tokens, token_valid = model(patches, GRID, masks=MaskInput(cover, masks), mask_valid=valid)
    assert torch.equal(token_valid, valid)
    assert not tokens[~valid].any()
    out: Tensor = tokens
    return out


def learn(tokens: Tensor) -> None:
    torch.autograd.backward(tokens.square().sum())


def count(name: str, **options: Any) -> int:
    with torch.device("meta"):
        model = build_projector(name, in_dim=1024, llm_dim=4096, **options)
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "without_mlp", "total"),
    [
        ({}, 41_881_472, 52_373_376),
        (
            {"num_queries": 8, "sspe_ffn": 512, "ssa_ffn": 4096, "mlp_hidden": 4096},
            52_235_648,
            73_215_360,
        ),
        ({"sspe_ffn": 512, "ssa_ffn": 512, "mlp_hidden": 4096}, 31_255_424, 52_235_136),
        ({"num_queries": 12}, 41_356_160, 51_848_064),
        ({"num_queries": 8}, 40_830_848, 51_322_752),
        ({"sspe_ffn": 1024}, 41_881_472 - 1_977_984 + 1_188_480, None),
        ({"ssa_ffn": 1024}, 41_881_472 - 37_800_960 + 31_506_432, None),
    ],
)
def test_parameter_counts_at_paper_size(
    options: dict[str, int], without_mlp: int, total: int | None
) -> None:
    hidden = options.get("mlp_hidden", 2048)
    head = {2048: 10_491_904, 4096: 20_979_712}[hidden]
    assert count("svp", **options) == without_mlp + head
    assert total in (None, without_mlp + head)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 7))
def test_permuting_superpixels_permutes_tokens(seed: int, n: int) -> None:
    patches, cover, masks, valid = inputs(seed, [n])
    order = torch.randperm(n)
    model = small(seed)
    torch.testing.assert_close(
        run(model, patches, cover[:, order], masks[:, order], valid),
        run(model, patches, cover, masks, valid)[:, order],
        atol=1e-10,
        rtol=0,
    )


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    counts=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    mode=st.sampled_from(["per_mask", "per_image"]),
)
def test_padding_and_neighbours_change_nothing(seed: int, counts: list[int], mode: str) -> None:
    patches, cover, masks, valid = inputs(seed, counts)
    model = small(seed, mask_budget_mode=mode, mask_budget=120)
    together = run(model, patches, cover, masks, valid)
    for i, n in enumerate(counts):
        one = slice(i, i + 1)
        alone = run(model, patches[one], cover[one, :n], masks[one, :n], valid[one, :n])
        torch.testing.assert_close(together[one, :n], alone, atol=1e-10, rtol=0)


def test_what_stands_in_padding_is_never_read() -> None:
    """Buffers are reused: padding may hold an earlier batch, or NaN."""
    patches, cover, masks, valid = inputs(0, [2, 5])
    model = small()
    clean = run(model, patches, cover, masks, valid)
    cover[0, 2:], masks[0, 2:] = torch.nan, 1
    assert torch.equal(run(model, patches, cover, masks, valid), clean)


def test_add_sspe_changes_only_the_sum_before_the_mlp() -> None:
    model, data = small(), inputs(1, [3, 2])
    seen: list[Tensor] = []
    model.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    run(model, *data)
    model.add_sspe = False
    run(model, *data)
    assert isinstance(model.sspe, SSPE)
    masks, valid = data[2], data[3]
    torch.testing.assert_close(seen[0] - seen[1], model.sspe(masks[valid]), atol=1e-12, rtol=0)


def test_sspe_learns_in_stage_1_through_ssa_alone() -> None:
    model = small(add_sspe=False)
    learn(run(model, *inputs(1, [3, 2])))
    assert all(p.grad is not None and p.grad.any() for p in model.sspe.parameters())  # type: ignore[union-attr]


def test_without_ssa_and_without_adding_the_sspe_gets_no_gradient() -> None:
    model = small(ssa_variant="none", add_sspe=False)
    learn(run(model, *inputs(1, [3, 2])))
    assert all(p.grad is None for p in model.sspe.parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize("ssa", ["none", "unshared", "unshared_bias", "shared"])
@pytest.mark.parametrize("sspe", VARIANTS)
def test_every_variant_learns(sspe: str, ssa: str) -> None:
    model = small(sspe_variant=sspe, ssa_variant=ssa)
    tokens = run(model, *inputs(2, [3, 5]))
    assert tokens.shape == (2, 5, D) and tokens.isfinite().all()
    learn(tokens)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_baseline_is_the_mlp_of_the_average() -> None:
    patches, cover, masks, valid = inputs(2, [2])
    model = small(sspe_variant="none", ssa_variant="none")
    mean = (cover[0] / cover[0].sum(1, keepdim=True)) @ patches[0]
    torch.testing.assert_close(run(model, patches, cover, masks, valid)[0], model.mlp(mean))


def test_an_image_without_superpixels_is_refused() -> None:
    patches, cover, masks, valid = inputs(2, [2, 1])
    valid[1] = False
    with pytest.raises(ValueError, match=r"images \[1\] of the batch have no valid superpixel"):
        run(small(), patches, cover, masks, valid)


def test_per_image_budget_coarsens_crowded_images_only() -> None:
    patches, cover, masks, valid = inputs(4, [1, 6])
    free, tight = small(), small(mask_budget_mode="per_image", mask_budget=96)
    first = run(free, patches, cover, masks, valid)
    second = run(tight, patches, cover, masks, valid)
    torch.testing.assert_close(first[0], second[0], atol=1e-10, rtol=0)
    assert (first[1] - second[1]).abs().max() > 1e-6


def test_options_that_do_not_fit_are_refused() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"ssa_variant": "all"}, "ssa_variant 'all'"),
        ({"sspe_variant": "all"}, "sspe_variant 'all'"),
        ({"ssa_heads": 5}, "5 attention heads do not divide the width 24"),
        ({"queries": 3}, "projector svp has no option queries; it has add_sspe"),
    ]
    for options, message in cases:
        with pytest.raises(ConfigError, match=message):
            small(**options)


def test_weights_go_by_the_specs_names() -> None:
    names = set(small(sspe_blocks=1, ssa_blocks=1).state_dict())
    attention = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
    norm = ("norm.weight", "norm.bias")
    stack = {f"cross.0.multihead_attn.{k}" for k in attention}
    stack |= {f"self_.0.self_attn.{k}" for k in attention}
    stack |= {f"ffn.0.linear{i}.{k}" for i in (1, 2) for k in ("weight", "bias")}
    stack |= {f"{part}.0.{k}" for part in ("cross", "self_", "ffn") for k in norm}
    tables = {f"sspe.{k}.weight" for k in ("mask_embed", "query_feat", "query_pos")}
    heads = {f"{k}.{x}" for k in ("sspe.out_proj", "mlp.0", "mlp.2") for x in ("weight", "bias")}
    want = {f"ssa.{k}" for k in stack} | {f"sspe.stack.{k}" for k in stack} | tables | heads
    assert names == want
    state = small().state_dict()
    assert SVP.from_original(state) == state


def test_a_pooled_start_gives_the_normalised_mean_of_the_patches() -> None:
    model = small(ssa_start="pooled", add_sspe=False)
    patches, cover, masks, valid = inputs(3, [4, 2])
    mean = cover @ patches / cover.sum(2, keepdim=True).clamp_min(1e-6)
    wanted = model.mlp(torch.nn.functional.layer_norm(mean, (C,)))
    tokens = run(model, patches, cover, masks, valid)
    assert torch.allclose(tokens[valid], wanted[valid], atol=1e-3)  # LN's eps, several times
    learn(tokens)
    assert model.ssa is not None
    added = [
        p
        for n, p in model.ssa.named_parameters()
        if n.endswith(("out_proj.weight", "linear2.weight"))
    ]
    assert added and all(p.grad is not None and p.grad.any() for p in added)  # it can learn


@pytest.mark.parametrize("add_sspe", [True, False])
def test_means_serve_as_the_patches_do_without_ssa(add_sspe: bool) -> None:
    model = small(ssa_variant="none", add_sspe=add_sspe)
    patches, cover, masks, valid = inputs(3, [4, 2])
    means = cover @ patches / cover.sum(2, keepdim=True).clamp_min(1e-6)
    given: dict[str, Any] = {"masks": MaskInput(cover, masks), "mask_valid": valid, "means": means}
    tokens, _ = model(patches[:, :0], GRID, **given)
    torch.testing.assert_close(tokens, run(model, patches, cover, masks, valid))
    with pytest.raises(ConfigError, match=f"means of {C - 1} channels, not {C}"):
        model(patches[:, :0], GRID, **given | {"means": means[..., 1:]})
    reads: tuple[dict[str, Any], ...] = ({}, {"ssa_variant": "none", "binary_cover": True})
    for options in reads:
        with pytest.raises(ConfigError, match="SVP reads patch features: there are only means"):
            small(**options)(patches[:, :0], GRID, **given)
    with pytest.raises(ConfigError, match="do not fit grid"):
        model(patches[:, :0], GRID, **given | {"means": None})


def test_an_unknown_start_is_refused() -> None:
    with pytest.raises(ConfigError, match="xavier"):
        small(ssa_start="zero")
