"""Embedding fusion, COMM style (Table 7): the same superpixels over several feature sources.

    X = sum_k alpha_k SVP_k(F_k)

Each source, a layer or an encoder, has its own SSA and MLP. The SSPE is shared, as it sees masks
only. The alphas are free scalars that start at 1/K. A source of another width, that of a second encoder,
first passes a linear layer to the width of the others.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...pipeline.errors import ConfigError
from ..batch import Visual
from .base import Projector
from .packing import Packing
from .svp import SVP


class Fusion(Projector):
    """Needs `multi` (B,P,W), `sources` = K feature maps side by side; `patches` are not used.

    `last_dim` channels has the last of them, 0 for C as the others.
    `svp` holds the options of `SVP`, the same for every source. Raises ConfigError.
    """

    needs = frozenset({"masks", "multi"})
    supports_sspe = True

    @classmethod
    def reads_patches(cls, options: Mapping[str, Any]) -> bool:
        """As `SVP`, by the options of its parts."""
        given = options.get("svp")
        return SVP.reads_patches(given if isinstance(given, Mapping) else {})

    def __init__(
        self, *, in_dim: int, llm_dim: int, sources: int = 4, last_dim: int = 0,
        svp: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(in_dim=in_dim, llm_dim=llm_dim)
        given = dict(svp or {})
        if sources < 1:
            raise ConfigError(f"fusion: sources={sources}: need >= 1")
        if last_dim < 0:
            raise ConfigError(f"fusion: last_dim={last_dim}: need >= 0")
        if wrong := sorted(given.keys() - SVP.options()):
            raise ConfigError(f"fusion: svp has no option {', '.join(wrong)}")
        self.needs_patches = self.reads_patches({"svp": given})
        first = SVP(in_dim=in_dim, llm_dim=llm_dim, **given)
        rest = {**given, "sspe_variant": "none"}  # the first one's SSPE serves all
        others = (SVP(in_dim=in_dim, llm_dim=llm_dim, **rest) for _ in range(sources - 1))
        self.parts = nn.ModuleList([first, *others])
        self.add_sspe = first.add_sspe
        self.dims = (*(in_dim,) * (sources - 1), last_dim or in_dim)
        other = self.dims[-1] != in_dim
        self.align = nn.Linear(self.dims[-1], in_dim) if other else nn.Identity()
        self.alpha = nn.Parameter(torch.full((sources,), 1 / sources))

    def set_sspe(self, add: bool) -> None:
        """As `SVP.set_sspe`, for all sources."""
        super().set_sspe(add)
        for part in self.parts:
            if isinstance(part, SVP):
                part.set_sspe(add)

    @property
    def multi_dim(self) -> int:
        """Channels of the K maps together."""
        return sum(self.dims)

    def num_tokens(self, grid: tuple[int, int]) -> int | None:
        """As many as the image has superpixels."""
        return None

    def project(self, x: Visual) -> Tensor:
        """multi, cover, masks, valid -> (B,N,D), zero on padding."""
        assert x.multi is not None and x.masks is not None and x.valid is not None
        real = Packing.of(x.valid, x.real)
        first, *_ = parts = [part for part in self.parts if isinstance(part, SVP)]
        sspe = first.positions(x.masks, real)
        *feats, last = torch.split(x.multi, list(self.dims), dim=2)
        feats.append(self.align(last))
        inputs = [replace(x, patches=f) if x.means is None else replace(x, means=f) for f in feats]
        tokens = [part.tokens(one, sspe, real) for part, one in zip(parts, inputs, strict=True)]
        return torch.einsum("k,kbnd->bnd", self.alpha, torch.stack(tokens))
