"""SSA: superpixels gather what they need from the patches (spec method.md 6, Eq. 2 and 3).

Queries start as the average of their patches. A superpixel and the patches under it share one
positional embedding, the SSPE, on queries and on keys: so each finds its own patches, yet may look
at any other. Self-attention lets the superpixels of one image see each other, never the padding.
"""

from typing import Final, Literal, get_args

import torch
from torch import Tensor

from ..pipeline.errors import ConfigError
from .blocks import Attention, BlockStack
from .position import sine_position

Sharing = Literal["shared", "unshared", "unshared_bias"]
SHARING: Final[tuple[str, ...]] = get_args(Sharing)


class SSA(BlockStack):
    """Blocks at the vision encoder's width. `sharing` is Table 5's row:

    shared         keys carry the sine position and the SSPE of what covers the patch (Eq. 3)
    unshared       keys carry the sine position only
    unshared_bias  as unshared, and a superpixel may only look at patches that it touches
    """

    def __init__(self, *, dim: int, heads: int, blocks: int, ffn: int, sharing: str) -> None:
        super().__init__(dim=dim, heads=heads, blocks=blocks, ffn=ffn)
        if sharing not in SHARING:
            raise ConfigError(f"ssa sharing {sharing!r}: need one of {', '.join(SHARING)}")
        self.sharing = sharing

    def forward(
        self, feats: Tensor, grid: tuple[int, int], cover: Tensor, sspe: Tensor, valid: Tensor
    ) -> Tensor:
        """feats (B,P,C), cover (B,N,P), sspe (B,N,C), valid (B,N) bool -> (B,N,C).

        `cover` and `sspe` are zero on padding; so is the result.
        """
        pos = sine_position(grid, feats.shape[2], feats.device)
        if self.sharing == "shared":
            pos = pos + spread(cover, sspe)
        keys = feats + pos.to(feats.dtype)
        allowed = touched(cover) if self.sharing == "unshared_bias" else None

        def attend(attn: Attention, q: Tensor) -> Tensor:
            out: Tensor = attn(q, keys, feats, allowed)
            return out

        real = valid[:, None, None]  # over (heads, queries)
        t = self.decode(pool(cover, feats), q_pos=sspe, attend=attend, allowed=real)
        return t.masked_fill(~valid.unsqueeze(-1), 0)


def pool(cover: Tensor, feats: Tensor) -> Tensor:
    """Eq. 2: the mean (B,N,C) of the patches (B,P,C) under each superpixel, by coverage (B,N,P).

    A superpixel out of view has no coverage and gives zeros. Summed in float32.
    """
    with torch.autocast(feats.device.type, enabled=False):
        wide = torch.promote_types(feats.dtype, torch.float32)
        share = cover.to(wide)
        total = share.sum(dim=2, keepdim=True).clamp_min(1e-6)
        return (share @ feats.to(wide) / total).to(feats.dtype)


def spread(cover: Tensor, sspe: Tensor) -> Tensor:
    """Eq. 3: every patch gets the SSPE of what covers it, (B,N,P), (B,N,C) -> (B,P,C), float32."""
    with torch.autocast(sspe.device.type, enabled=False):
        wide = torch.promote_types(sspe.dtype, torch.float32)
        return cover.to(wide).mT @ sspe.to(wide)


def touched(cover: Tensor) -> Tensor:
    """(B,1,N,P) bool: patches with any coverage; a row without (padding) may look everywhere."""
    some = cover > 0
    return (some | ~some.any(dim=2, keepdim=True)).unsqueeze(1)
