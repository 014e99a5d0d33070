"""LLaVA's `mlp2x_gelu`: one token per patch, the uncompressed reference (GLaMM).

With `layers=1` it is LLaVA's `linear`, which LISA has.

Source: LLaVA c121f043, llava/model/multimodal_projector/builder.py 33-51.
"""

from torch import Tensor, nn

from ...pipeline.errors import ConfigError
from ..batch import Visual
from .base import Projector, Rename, mlp


class MLP(Projector):
    """tokens = Linear(C->hidden), GELU, Linear(hidden->D); K = P, hidden = D by default.

    layers  2, or 1: the linear C -> D alone
    """

    prefixes = ("model.mm_projector.", "mm_projector.")
    renames = (Rename(r"[02]\.(weight|bias)", r"mlp.\g<0>"),)

    def __init__(
        self, *, in_dim: int, llm_dim: int, hidden: int | None = None, layers: int = 2
    ) -> None:
        super().__init__(in_dim=in_dim, llm_dim=llm_dim)
        if layers not in (1, 2):
            raise ConfigError(f"mlp: layers={layers}: allowed are 1 and 2")
        if layers == 1:
            self.mlp = nn.Sequential(nn.Linear(in_dim, llm_dim))
        else:
            self.mlp = mlp(in_dim, hidden or llm_dim, llm_dim)

    def num_tokens(self, grid: tuple[int, int]) -> int:
        """One per patch."""
        return grid[0] * grid[1]

    def project(self, x: Visual) -> Tensor:
        """(B,P,C) -> (B,P,D)."""
        tokens: Tensor = self.mlp(x.patches)
        return tokens
