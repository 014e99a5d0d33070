"""Projectors that keep some patches and drop the others: LLaVA's MLP on those that are kept."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...pipeline.errors import ConfigError
from ..batch import Visual
from .base import Projector, Rename, mlp
from .similarity import gather


class KeptPatches(Projector):
    """`tokens` patches of an image, in raster order; subclasses write `chosen`.

    The choice looks at the encoder's features, which do not train, so it is the same at every step;
    `tokens` changes no weight.
    """

    adjustable = frozenset({"tokens"})
    prefixes = ("model.mm_projector.", "mm_projector.")
    renames = (Rename(r"[02]\.(weight|bias)", r"mlp.\g<0>"),)

    def __init__(self, *, in_dim: int, llm_dim: int, tokens: int = 36) -> None:
        super().__init__(in_dim=in_dim, llm_dim=llm_dim)
        if tokens < 1:
            raise ConfigError(f"tokens={tokens}: need >= 1")
        self.tokens = tokens
        self.mlp = mlp(in_dim, llm_dim, llm_dim)

    def num_tokens(self, grid: tuple[int, int]) -> int:
        """As many as the options say. Raises ConfigError if the grid has fewer patches."""
        if self.tokens > grid[0] * grid[1]:
            raise ConfigError(
                f"tokens={self.tokens}: the {grid[0]}x{grid[1]} grid has {grid[0] * grid[1]} patches"
            )
        return self.tokens

    def chosen(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B,P,C) as they came -> (B,tokens) int64, different places in any order."""
        raise NotImplementedError

    def pieces(self, x: Visual) -> Tensor:
        """The patch itself for each token."""
        found: Tensor = F.one_hot(self._kept(x), x.patches.shape[1]).float()
        return found

    def project(self, x: Visual) -> Tensor:
        """(B,P,C) -> (B,tokens,D)."""
        tokens: Tensor = self.mlp(gather(x.patches, self._kept(x)).to(self._dtype))
        return tokens

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def _kept(self, x: Visual) -> Tensor:
        return self.chosen(x.patches, x.grid).sort(dim=1).values

    def _native(self, x: Visual) -> Visual:
        """Patches stay as they came, so that autocast changes no choice."""
        return x
