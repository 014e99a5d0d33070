"""ToMe: merge the most similar patches by bipartite soft matching (arXiv 2210.09461).

In each round the tokens are divided alternately into two sets, each of the first finds its most
similar of the second, and the `r` most similar pairs are merged into their mean, weighted by the
patches each stands for. The original merges between the layers of the encoder by the similarity of
attention keys; on cached features there are only the features, so the same rounds run on them.

Source: the paper (ICLR 2023), sections 3 and appendix D, and facebookresearch/ToMe af95e4b,
tome/merge.py, as a description: the code is CC-BY-NC-4.0 and none was taken.
"""

import torch
from torch import Tensor

from ...pipeline.errors import ConfigError
from ..batch import Visual
from .base import Projector, Rename, mlp
from .similarity import one_hot, similarities


class ToMe(Projector):
    """`tokens` groups of patches, in the raster order of their first patch; LLaVA's MLP on means.

    `rounds`: about as many pairs are merged in each, at most half of the tokens; the default is the
    number of layers of a ViT-L. Neither option changes a weight.
    """

    adjustable = frozenset({"tokens", "rounds"})
    prefixes = ("model.mm_projector.", "mm_projector.")
    renames = (Rename(r"[02]\.(weight|bias)", r"mlp.\g<0>"),)

    def __init__(self, *, in_dim: int, llm_dim: int, tokens: int = 36, rounds: int = 24) -> None:
        super().__init__(in_dim=in_dim, llm_dim=llm_dim)
        if min(tokens, rounds) < 1:
            raise ConfigError(f"tome: tokens={tokens}, rounds={rounds}: need >= 1")
        self.tokens, self.rounds = tokens, rounds
        self.mlp = mlp(in_dim, llm_dim, llm_dim)

    def num_tokens(self, grid: tuple[int, int]) -> int:
        """As many as the options say. Raises ConfigError if the grid has fewer patches."""
        if self.tokens > grid[0] * grid[1]:
            raise ConfigError(
                f"tome: tokens={self.tokens}: the {grid[0]}x{grid[1]} grid has "
                f"{grid[0] * grid[1]} patches"
            )
        return self.tokens

    def pieces(self, x: Visual) -> Tensor:
        """Its group of patches for each token."""
        owner = merge_patches(x.patches, self.tokens, self.rounds)[1]
        return one_hot(owner, self.tokens)

    def project(self, x: Visual) -> Tensor:
        """(B,P,C) -> (B,tokens,D)."""
        merged, _ = merge_patches(x.patches, self.tokens, self.rounds)
        tokens: Tensor = self.mlp(merged.to(self._dtype))
        return tokens

    def _native(self, x: Visual) -> Visual:
        """Patches stay as they came, so that autocast changes no matching."""
        return x


@torch.compiler.disable  # type: ignore[untyped-decorator]
@torch.no_grad()
def merge_patches(x: Tensor, tokens: int, rounds: int) -> tuple[Tensor, Tensor]:
    """Means (B,tokens,C) float64 of groups of patches (B,P,C), and the group of each patch (B,P)."""
    x, size = x.double(), torch.ones_like(x[..., :1], dtype=torch.float64)
    owner = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
    each = -(-(x.shape[1] - tokens) // rounds)
    while (surplus := x.shape[1] - tokens) > 0:
        pairs = min(each, surplus, x.shape[1] // 2)
        source, target = closest_pairs(x, pairs)
        place = places_after(source, target, x.shape[1])
        into = place[..., None].expand(-1, -1, x.shape[2])
        total = torch.zeros_like(x[:, pairs:]).scatter_add(1, into, x * size)
        size = torch.zeros_like(size[:, pairs:]).scatter_add(1, into[..., :1], size)
        x, owner = total / size, place.gather(1, owner)
    return x, owner


def closest_pairs(x: Tensor, pairs: int) -> tuple[Tensor, Tensor]:
    """Places (B,pairs) of the even tokens of (B,T,C) that go, and of the odd ones they go to."""
    best, partner = similarities(x)[:, ::2, 1::2].max(2)
    closest = (-best).argsort(dim=1, stable=True)[:, :pairs]
    return 2 * closest, 2 * partner.gather(1, closest) + 1


def places_after(source: Tensor, target: Tensor, count: int) -> Tensor:
    """New place (B,count) of each token: groups stand where their first token did."""
    every = torch.arange(count, device=source.device).expand(len(source), -1)
    group = every.scatter(1, source, target)
    first = every.scatter_reduce(1, target, source, "amin").gather(1, group)
    leads = (first == every).long().cumsum(1) - 1
    return leads.gather(1, first)
