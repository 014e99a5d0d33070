"""What the rivals choose: against references written plainly, in every precision, nested."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from svp.model.batch import Visual
from svp.model.projectors import MaskInput, Projector, build_projector
from svp.model.projectors.divt import DiVT, clusters
from svp.model.projectors.kept_patches import KeptPatches
from svp.model.projectors.m3 import M3
from svp.model.projectors.mqt import MQT
from svp.model.projectors.tome import merge_patches
from svp.pipeline.errors import ConfigError

GRID = (6, 8)
CHOOSERS = ("divprune", "random_patches")


def scene(seed: int = 0, kinds: int = 7, noise: float = 0.6) -> Tensor:
    """Patches (2,48,16) float32 that a float16 cache would hold, of a few kinds."""
    made = torch.Generator().manual_seed(seed)
    centres = torch.randn(kinds, 16, generator=made)
    picked = torch.randint(0, kinds, (2, 48), generator=made)
    found: Tensor = centres[picked] + noise * torch.randn(2, 48, 16, generator=made)
    return found.half().float()


def made(name: str, **options: Any) -> Projector:
    torch.manual_seed(1)
    return build_projector(name, in_dim=16, llm_dim=24, grid=GRID, **options).eval()


def cosine(patches: Tensor) -> NDArray[np.float64]:
    x = patches.double().numpy()
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(x @ x.T)


def divt_by_hand(patches: Tensor, threshold: float) -> tuple[list[int], list[int]]:
    """Medoids, and the number of the medoid of each patch; one image."""
    alike = cosine(patches)
    degree = (alike > threshold).sum(1)
    left, medoids = set(range(len(alike))), []
    while left:
        best = min(left, key=lambda p: (-degree[p], p))
        medoids.append(best)
        left -= {p for p in left if alike[best, p] > threshold} | {best}
    medoids.sort()
    return medoids, alike[medoids].argmax(0).tolist()


@pytest.mark.parametrize("threshold", [0.3, 0.65, 0.9])
def test_divt_finds_the_clusters_of_a_plain_search(threshold: float) -> None:
    x = scene()
    medoids, real, cluster = clusters(x, threshold)
    for k in range(2):
        want, members = divt_by_hand(x[k], threshold)
        assert medoids[k][real[k]].tolist() == want
        assert cluster[k].tolist() == members


def test_a_token_of_divt_is_made_of_its_cluster_alone() -> None:
    module, x = made("divt", embed_dim=16, heads=2), scene()
    assert isinstance(module, DiVT)
    tokens, real = module(x, GRID)
    assert module.token_counts(Visual(x, GRID)) == real.sum(1).tolist()
    _, _, cluster = clusters(x, 0.65)
    module.positions.data[(cluster[0] == 0)] += 1  # changes values, not clusters
    changed, _ = module(x, GRID)
    assert (tokens - changed)[0].abs().sum(1).nonzero().flatten().tolist() == [0]


def test_the_threshold_of_divt_decides_the_count_and_changes_no_weight() -> None:
    counts = []
    for threshold in (0.3, 0.65, 0.9):
        module = made("divt", embed_dim=16, heads=2, threshold=threshold)
        counts.append(int(module(scene(), GRID)[1].sum()))
    assert counts == sorted(counts) and counts[0] < counts[2]
    with pytest.raises(ConfigError, match="threshold=1.5: need a similarity between 0 and 1"):
        made("divt", threshold=1.5)


def test_images_with_equal_patches_and_with_none() -> None:
    """A blank photograph is one cluster; zeros are similar to nothing."""
    blank = torch.ones(1, 48, 16)
    assert clusters(blank, 0.65)[1].sum() == 1
    assert clusters(torch.zeros(1, 48, 16), 0.65)[1].sum() == 48
    tokens, real = made("divt", embed_dim=16, heads=2)(torch.cat([blank, scene()[:1]]), GRID)
    assert real[0].sum() == 1 and tokens.isfinite().all()
    for name in (*CHOOSERS, "tome"):
        assert made(name, tokens=5)(blank, GRID)[0].isfinite().all()


def tome_by_hand(patches: Tensor, tokens: int, rounds: int) -> list[set[int]]:
    """The groups of patches of one image, in order."""
    x = patches.double().numpy()
    groups = [{p} for p in range(len(x))]
    each = -(-(len(x) - tokens) // rounds)
    while len(groups) > tokens:
        means = torch.tensor(np.stack([x[sorted(group)].mean(0) for group in groups]))
        alike = cosine(means)
        odd = range(1, len(groups), 2)
        best = {a: max(odd, key=lambda b: alike[a, b]) for a in range(0, len(groups), 2)}
        order = sorted(best, key=lambda a: -alike[a, best[a]])
        for a in order[: min(each, len(groups) - tokens, len(groups) // 2)]:
            groups[best[a]] |= groups[a]
            groups[a] = set()
        groups = sorted((group for group in groups if group), key=min)
    return groups


@pytest.mark.parametrize(("tokens", "rounds"), [(40, 1), (7, 4), (12, 24), (1, 3)])
def test_tome_merges_what_a_plain_matching_merges(tokens: int, rounds: int) -> None:
    x = scene()
    means, owner = merge_patches(x, tokens, rounds)
    for k in range(2):
        want = tome_by_hand(x[k], tokens, rounds)
        found = [set((owner[k] == t).nonzero().flatten().tolist()) for t in range(tokens)]
        assert found == want
        by_hand = torch.stack([x[k][sorted(group)].double().mean(0) for group in want])
        torch.testing.assert_close(means[k], by_hand)


def test_divprune_takes_the_farthest_patch_each_time() -> None:
    x = scene()
    module = made("divprune", tokens=9)
    assert isinstance(module, KeptPatches)
    for k, found in enumerate(module.chosen(x, GRID).tolist()):
        apart = 1 - cosine(x[k])
        nearest_other = np.where(np.eye(48, dtype=bool), np.inf, apart).min(1)
        assert found[0] == int(nearest_other.argmax()) and len(set(found)) == 9
        for n in range(1, 9):
            assert found[n] == int(apart[:, found[:n]].min(1).argmax())


@pytest.mark.parametrize("name", CHOOSERS)
def test_fewer_tokens_keep_a_subset_of_more(name: str) -> None:
    few, more = made(name, tokens=4), made(name, tokens=20)
    assert isinstance(few, KeptPatches) and isinstance(more, KeptPatches)
    assert torch.equal(few.chosen(scene(), GRID), more.chosen(scene(), GRID)[:, :4])


def test_random_patches_are_the_image_s_own() -> None:
    """Another image or draw has others; batch, order and precision change nothing."""
    module = made("random_patches", tokens=10)
    assert isinstance(module, KeptPatches)
    x = scene()
    found = module.chosen(x, GRID)
    assert torch.equal(module.chosen(x.flip(0), GRID).flip(0), found)
    assert torch.equal(module.chosen(x.bfloat16(), GRID), found)
    assert not torch.equal(found[0], found[1])
    other = made("random_patches", tokens=10, draw=1)
    assert isinstance(other, KeptPatches) and not torch.equal(other.chosen(x, GRID), found)
    every = made("random_patches", tokens=12)
    assert isinstance(every, KeptPatches)
    many = torch.cat([every.chosen(scene(seed), GRID).flatten() for seed in range(200)])
    share = torch.bincount(many, minlength=48) / 400  # 400 images, 12 of 48 patches each
    assert 0.15 < float(share.min()) and float(share.max()) < 0.35


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("divt", {"embed_dim": 16, "heads": 2}),
        ("tome", {}),
        ("divprune", {}),
        ("random_patches", {}),
    ],
)
def test_autocast_changes_no_choice(name: str, options: dict[str, Any]) -> None:
    module, x = made(name, **options), scene()
    want = module.pieces(Visual(x, GRID))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = module.pieces(Visual(x, GRID))
        _, real = module(x, GRID)
    assert want is not None and mixed is not None and torch.equal(mixed, want)
    assert torch.equal(real, want.sum(2) > 0)


def test_a_prefix_of_mqt_is_what_fewer_queries_give() -> None:
    whole, few = made("mqt", side=4, heads=4), made("mqt", side=4, heads=4, tokens=5)
    x = scene()
    torch.testing.assert_close(whole(x, GRID)[0][:, :5], few(x, GRID)[0])


def test_a_training_step_of_mqt_and_m3_uses_the_drawn_number() -> None:
    mqt, m3 = made("mqt", side=4, heads=4), made("m3", sides=(1, 2))
    assert isinstance(mqt, MQT) and isinstance(m3, M3)
    seen: dict[str, set[int]] = {"mqt": set(), "m3": set()}
    for module, name in ((mqt, "mqt"), (m3, "m3")):
        for key in range(64):
            module.draw(key * 0x9E3779B97F4A7C15 % 2**64)
            module.train()
            tokens, _ = module(scene(), GRID)
            assert tokens.shape[1] == module.num_tokens(GRID) <= module.most_tokens(GRID)
            seen[name].add(tokens.shape[1])
        assert module.eval().num_tokens(GRID) == module.most_tokens(GRID)
        module.draw(None)
        assert module.train().num_tokens(GRID) == module.most_tokens(GRID)
    assert seen == {"mqt": set(range(2, 17, 2)), "m3": {1, 4}}


def test_m3_is_the_mean_of_the_mlp_s_tokens_in_each_cell() -> None:
    module, x = made("m3", sides=(1, 2), tokens=4), scene()
    assert isinstance(module, M3)
    every = module.mlp(x).view(2, 2, 3, 2, 4, 24)
    want = every.mean((2, 4)).flatten(1, 2)
    torch.testing.assert_close(module(x, GRID)[0], want)
    with pytest.raises(ConfigError, match="tokens=5: allowed are 1, 4"):
        made("m3", sides=(1, 2), tokens=5)
    with pytest.raises(ConfigError, match="4x4 tokens do not divide the 6x8 patch grid"):
        made("m3", sides=(4,))(x, GRID)


def test_adatok_is_svp_without_its_parts() -> None:
    adatok = made("adatok", hidden=32)
    bare = made("svp", sspe_variant="none", ssa_variant="none", mlp_hidden=32)
    bare.load_state_dict(adatok.state_dict())
    masks = MaskInput(torch.rand(2, 3, 48), torch.ones(2, 3, 8, 8, dtype=torch.uint8))
    valid = torch.tensor([[True, True, True], [True, False, False]])
    tokens, found = adatok(scene(), GRID, masks=masks, mask_valid=valid)
    assert torch.equal(found, valid)
    torch.testing.assert_close(tokens, bare(scene(), GRID, masks=masks, mask_valid=valid)[0])


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["divt", "tome", *CHOOSERS])
def test_a_gpu_chooses_what_the_cpu_chooses(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 changes no choice either."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    options: dict[str, Any] = {"embed_dim": 16, "heads": 2} if name == "divt" else {}
    module, x = made(name, **options), scene(noise=0.9)
    want = module.pieces(Visual(x, GRID))
    found = module.cuda().pieces(Visual(x.cuda(), GRID))
    assert want is not None and found is not None and torch.equal(found.cpu(), want)
