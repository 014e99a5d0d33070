"""SSA: Eq. 2, Eq. 3, the padding mask and what each of Table 5's rows may see."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from svp.model.projectors.svp.ssa import SHARING, SSA, binarised, penalty, pool, spread, touched
from svp.pipeline.errors import ConfigError

C, GRID = 16, (3, 4)


def partition(seed: int, n: int) -> Tensor:
    """(1,n,P): every patch split among the superpixels."""
    torch.manual_seed(seed)
    return torch.rand(1, n, 12, dtype=torch.float64).softmax(dim=1)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 6))
def test_pool_and_spread_keep_constants(seed: int, n: int) -> None:
    """Rows of Eq. 2 sum to 1; columns of a partition sum to 1 in Eq. 3."""
    cover = partition(seed, n)
    ones = torch.ones(1, 12, C, dtype=torch.float64)
    torch.testing.assert_close(pool(cover, ones), torch.ones(1, n, C, dtype=torch.float64))
    same = torch.randn(1, 1, C, dtype=torch.float64).expand(1, n, C)
    none = torch.zeros(12, C, dtype=torch.float64)
    torch.testing.assert_close(spread(cover, same, none), same[:, :1].expand(1, 12, C))


def test_pool_is_the_weighted_mean_of_the_patches() -> None:
    cover, feats = torch.zeros(1, 2, 12), torch.randn(1, 12, C)
    cover[0, 0, 3], cover[0, 0, 5] = 1.0, 0.5
    got = pool(cover, feats)[0]
    torch.testing.assert_close(got[0], (feats[0, 3] + 0.5 * feats[0, 5]) / 1.5)
    assert not got[1].any()  # out of view: zeros, not NaN


def test_a_one_pixel_superpixel_has_its_patchs_features() -> None:
    cover, feats = torch.zeros(1, 1, 12, dtype=torch.float16), torch.randn(1, 12, C)
    cover[0, 0, 7] = 1 / 196
    torch.testing.assert_close(pool(cover, feats)[0, 0], feats[0, 7])


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(3)
    feats = torch.randn(2, 12, C, dtype=dtype)
    cover = (torch.rand(2, 5, 12) > 0.5).to(dtype)
    valid = torch.ones(2, 5, dtype=torch.bool)
    valid[1, 3:] = False
    cover[1, 3:] = 0
    sspe = torch.randn(2, 5, C, dtype=dtype) * valid.unsqueeze(-1)
    return feats, cover, sspe, valid


@pytest.mark.parametrize("sharing", SHARING)
def test_padding_changes_nothing(sharing: str) -> None:
    ssa = SSA(dim=C, heads=4, blocks=2, ffn=24, sharing=sharing).double()
    feats, cover, sspe, valid = inputs()
    both = ssa(feats, GRID, cover, sspe, valid)
    alone = ssa(feats[1:], GRID, cover[1:, :3], sspe[1:, :3], valid[1:, :3])
    torch.testing.assert_close(both[1:, :3], alone, atol=1e-10, rtol=0)
    assert both.isfinite().all()


def test_sharing_puts_the_sspe_on_keys_only_when_shared() -> None:
    """With one query position for all, only Eq. 3 can carry the cover to the keys."""
    feats, cover, sspe, valid = inputs()
    shuffled = cover[:, :, torch.randperm(12)]
    e0 = {}
    for sharing in ("shared", "unshared"):
        torch.manual_seed(0)
        ssa = SSA(dim=C, heads=4, blocks=1, ffn=24, sharing=sharing).double()
        keys: list[Tensor] = []
        ssa.get_submodule("cross.0.multihead_attn").register_forward_pre_hook(
            lambda _, args, keys=keys: keys.append(args[1])
        )
        for one in (cover, shuffled):
            ssa(feats, GRID, one, sspe, valid)
        e0[sharing] = torch.equal(*keys)
    assert e0 == {"shared": False, "unshared": True}


def test_the_bias_hides_patches_that_a_superpixel_does_not_touch() -> None:
    ssa = SSA(dim=C, heads=4, blocks=2, ffn=24, sharing="unshared_bias").double()
    feats, cover, sspe, valid = inputs()
    cover[0, :, 4] = 0  # a patch of image 0 that nothing covers
    changed = feats.clone()
    changed[0, 4] += 10
    before, after = (ssa(f, GRID, cover, sspe, valid) for f in (feats, changed))
    assert torch.equal(before, after)
    free = SSA(dim=C, heads=4, blocks=2, ffn=24, sharing="shared").double()
    assert not torch.equal(*(free(f, GRID, cover, sspe, valid) for f in (feats, changed)))


def test_a_row_that_touches_nothing_is_unblocked() -> None:
    cover = torch.zeros(1, 2, 12)
    cover[0, 0, 3] = 0.01
    allowed = touched(cover)[0, 0]
    assert allowed[0].nonzero().flatten().tolist() == [3] and bool(allowed[1].all())


def test_unknown_sharing_is_refused() -> None:
    with pytest.raises(ConfigError, match="need one of shared, unshared, unshared_bias"):
        SSA(dim=C, heads=4, blocks=1, ffn=8, sharing="some")


def test_binary_cover_keeps_the_best_patch() -> None:
    cover = torch.tensor([[[0.5, 0.4, 0.9, 0.0], [0.1, 0.3, 0.2, 0.0], [0.0, 0.0, 0.0, 0.0]]])
    wanted = [[[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]]
    assert binarised(cover).tolist() == wanted


def test_a_soft_bias_scores_by_the_logarithm_of_the_coverage() -> None:
    cover = torch.tensor([[[1.0, 0.5, 0.0]]])
    found = penalty(cover, 2.0)
    assert found.shape == (1, 1, 1, 3)
    assert found.flatten().tolist() == pytest.approx([0.0, 2 * math.log(0.5), 2 * math.log(1e-6)])


def test_a_soft_bias_lies_between_a_mask_and_none() -> None:
    torch.manual_seed(0)
    feats, sspe = torch.randn(1, 6, 16), torch.randn(1, 2, 16)
    cover = torch.tensor([[[1.0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]])
    valid = torch.ones(1, 2, dtype=torch.bool)

    def run(sharing: str, soft_bias: float | None = None) -> Tensor:
        torch.manual_seed(1)
        made = SSA(dim=16, heads=2, blocks=1, ffn=16, sharing=sharing, soft_bias=soft_bias)
        found: Tensor = made(feats, (2, 3), cover, sspe, valid)
        return found

    hard, soft = run("unshared_bias"), run("unshared_bias", 1.0)
    assert torch.allclose(run("unshared_bias", 100.0), hard, atol=1e-5)
    assert not torch.allclose(soft, hard, atol=1e-7)
    assert not torch.allclose(soft, run("unshared"), atol=1e-3)
    for wrong in (("shared", 1.0), ("unshared_bias", 0.0), ("unshared_bias", -1.0)):
        with pytest.raises(ConfigError, match="ssa_soft_bias"):
            run(*wrong)
