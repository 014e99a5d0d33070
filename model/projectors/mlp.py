"""LLaVA's `mlp2x_gelu`: every patch becomes a token. The uncompressed reference, as in GLaMM.

Source: LLaVA c121f043, llava/model/multimodal_projector/builder.py 33-51.
"""

from torch import Tensor

from ..batch import Visual
from .base import Projector, Rename, mlp


class MLP(Projector):
    """tokens = Linear(C->hidden), GELU, Linear(hidden->D); K = P, hidden = D by default."""

    prefixes = ("model.mm_projector.", "mm_projector.")
    renames = (Rename(r"[02]\.(weight|bias)", r"mlp.\g<0>"),)

    def __init__(self, *, in_dim: int, llm_dim: int, hidden: int | None = None) -> None:
        super().__init__(in_dim=in_dim, llm_dim=llm_dim)
        self.mlp = mlp(in_dim, hidden or llm_dim, llm_dim)

    def num_tokens(self, grid: tuple[int, int]) -> int:
        """One per patch."""
        return grid[0] * grid[1]

    def project(self, x: Visual) -> Tensor:
        """(B,P,C) -> (B,P,D)."""
        tokens: Tensor = self.mlp(x.patches)
        return tokens
