"""DiVT: one token per cluster of similar patches, as many as the image has (arXiv 2605.17954).

A greedy pass takes the patch with most neighbours (cosine similarity above `threshold`) among those
that are left, with its neighbours that are left, until none is. Then every patch joins the most
similar of the patches that were taken, the medoids; each medoid attends to its own cluster.

Source: the paper (CVPR 2026) and LeeHyun98/DiVT 5ebbb16 (Apache-2.0),
llava/model/multimodal_projector/builder.py, as a description: no code was taken. Published weights
load by `from_original`.
"""

import torch
from torch import Tensor, nn

from ...pipeline.errors import ConfigError
from ..batch import Visual
from ..blocks import Attention
from .base import Projector, Rename, mlp, start_linears
from .grid import require_grid
from .similarity import ONE, gather, one_hot, similarities
from .tokenpacker import TokenPacker


class DiVT(Projector):
    """Medoids query, patches are keys, patches with learned positions are values; MLP, no residual.

    Tokens are in the raster order of their medoids. A higher `threshold` gives more of them
    (published: 0.5, 0.65 and 0.75 with 36, 74 and 137 tokens of CLIP's 576 on average); it changes
    no weight. Clusters are those of the features as they come, whatever autocast does.
    """

    adjustable = frozenset({"threshold"})
    prefixes = ("model.mm_projector.", "mm_projector.")
    renames = (
        Rename("positional_embedding", "positions"),
        *TokenPacker.renames,  # the published names are the same
    )

    def __init__(
        self,
        *,
        in_dim: int,
        llm_dim: int,
        grid: tuple[int, int],
        threshold: float = 0.65,
        embed_dim: int = 1024,
        heads: int = 8,
    ) -> None:
        super().__init__(in_dim=in_dim, llm_dim=llm_dim)
        if not 0 < threshold < 1:
            raise ConfigError(f"divt: threshold={threshold}: need a similarity between 0 and 1")
        self.grid, self.threshold = grid, threshold
        self.positions = nn.Parameter(torch.randn(grid[0] * grid[1], in_dim) / in_dim**0.5)
        self.q_proj = nn.Linear(in_dim, embed_dim, bias=False)
        self.k_proj, self.v_proj = (mlp(in_dim, embed_dim, embed_dim) for _ in range(2))
        self.q_norm, self.k_norm, self.v_norm = (
            nn.LayerNorm(embed_dim, eps=1e-6) for _ in range(3)
        )
        self.attn = Attention(dim=embed_dim, heads=heads)
        self.mlp = mlp(embed_dim, llm_dim, llm_dim)
        start_linears(self)

    def num_tokens(self, grid: tuple[int, int]) -> None:
        """As many as the image has clusters."""
        require_grid("divt", self.grid, grid)

    def most_tokens(self, grid: tuple[int, int]) -> int:
        """Every patch its own cluster."""
        return grid[0] * grid[1]

    def token_counts(self, x: Visual) -> list[int]:
        """Clusters of each image, which are searched for."""
        counts: list[int] = greedy_medoids(similarities(x.patches), self.threshold).sum(1).tolist()
        return counts

    def pieces(self, x: Visual) -> Tensor:
        """Its cluster for each token."""
        medoids, _, cluster = clusters(x.patches, self.threshold)
        return one_hot(cluster, medoids.shape[1])

    def project(self, x: Visual) -> tuple[Tensor, Tensor]:
        """(B,P,C) -> (B,K,D) and which are real (B,K)."""
        medoids, real, cluster = clusters(x.patches, self.threshold)
        patches = x.patches.to(self._dtype)
        q = self.q_norm(self.q_proj(gather(patches, medoids)))
        k = self.k_norm(self.k_proj(patches))
        v = self.v_norm(self.v_proj(patches + self.positions))
        own = one_hot(cluster, medoids.shape[1]).bool()
        allowed = own | ~real[..., None]  # padding attends to all: over nothing it would be NaN
        seen = self.attn(*self.attn.project(q, k, v), allowed[:, None])
        tokens: Tensor = self.mlp(seen)
        return tokens * real[..., None], real

    def _native(self, x: Visual) -> Visual:
        """Patches stay as they came: bfloat16 would make other clusters of them."""
        return x


@torch.compiler.disable  # type: ignore[untyped-decorator]
@torch.no_grad()
def clusters(x: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of patches (B,P,C) the medoids (B,K) int64 in raster order, which are real (B,K) bool, and of
    each patch the number of its medoid (B,P) int64."""
    alike = similarities(x)
    chosen = greedy_medoids(alike, threshold)
    counts = chosen.sum(1)
    most = int(counts.max())
    # Stable: the chosen first, each group in raster order.
    medoids = (~chosen).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
    real = torch.arange(most, device=x.device) < counts[:, None]
    to_medoid = gather(alike, medoids).masked_fill(~real[..., None], -2 * ONE)  # (B,K,P)
    return medoids, real, to_medoid.argmax(1)


@torch.no_grad()
def greedy_medoids(alike: Tensor, threshold: float) -> Tensor:
    """Of similarities (B,P,P) the patches that are taken, (B,P) bool.

    Neighbours are counted once, at the beginning; of equal ones the first in raster order is taken.
    """
    near = alike > int(threshold * ONE)
    degree = near.sum(2)
    left = torch.ones_like(degree, dtype=torch.bool)
    chosen = torch.zeros_like(left)
    rows = torch.arange(len(alike), device=alike.device)
    while bool(left.any()):
        take = degree.masked_fill(~left, -1).argmax(1)
        chosen[rows, take] |= left[rows, take]  # an image that is done takes nothing
        left &= ~near[rows, take]
    return chosen
