"""AdaTok-like: the mean of the patches of each object mask, and an MLP (arXiv 2511.14169).

As many tokens as there are masks, without what SVP adds: no position embedding (SSPE) and no
attention to the patches (SSA). "Like": the paper merges patches of SAM's objects before a light
projector; here the objects are the cache's superpixels, and its code is not public.
"""

from dataclasses import replace

from torch import Tensor

from ..batch import Visual
from .base import Projector, Rename, mlp
from .packing import Packing
from .svp.ssa import pool


class AdaTok(Projector):
    """tokens = MLP(mean of the covered patches), in the order of the superpixels."""

    needs = frozenset({"masks"})
    renames = (Rename(r"mlp\..+"),)

    def __init__(self, *, in_dim: int, llm_dim: int, hidden: int | None = None) -> None:
        super().__init__(in_dim=in_dim, llm_dim=llm_dim)
        self.mlp = mlp(in_dim, hidden or llm_dim, llm_dim)

    def num_tokens(self, grid: tuple[int, int]) -> None:
        """As many as the image has superpixels."""

    def project(self, x: Visual) -> Tensor:
        """Patches, cover, valid -> (B,N,D), zero on padding."""
        assert x.cover is not None and x.valid is not None
        cover = x.cover.masked_fill(~x.valid.unsqueeze(-1), 0)  # padding may hold anything
        means = pool(cover, x.patches)
        real = Packing.of(x.valid, x.real)
        return real.unpack(self.mlp(real.pack(means).to(self._dtype)))

    def _native(self, x: Visual) -> Visual:
        """Patches stay as they came: the mean is taken in float32."""
        return replace(super()._native(x), patches=x.patches)
