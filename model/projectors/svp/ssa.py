"""SSA: aggregate patch features per superpixel (Eq. 2 and 3 of arXiv 2509.13676).

Queries start as the average of their patches. A superpixel and the patches under it share one
positional embedding, the SSPE, on queries and on keys: so each finds its own patches, yet may look
at any other. Self-attention lets the superpixels of one image see each other, never the padding.
"""

from typing import Final, Literal, get_args

import torch
from torch import Tensor

from ....pipeline.errors import ConfigError
from ...blocks import KEY, VALUE, Attention, BlockStack, Look
from .position import sine_position

Sharing = Literal["shared", "unshared", "unshared_bias"]
SHARING: Final[tuple[str, ...]] = get_args(Sharing)


class SSA(BlockStack):
    """Blocks at the vision encoder's width. `sharing` is Table 5's row:

    shared         keys carry the sine position and the SSPE of what covers the patch (Eq. 3)
    unshared       keys carry the sine position only
    unshared_bias  as unshared, and a superpixel may only look at patches that it touches; with
                   `soft_bias` it may look at all, scores less by soft_bias * log(coverage)
    """

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        blocks: int,
        ffn: int,
        sharing: str,
        soft_bias: float | None = None,
    ) -> None:
        super().__init__(dim=dim, heads=heads, blocks=blocks, ffn=ffn)
        if sharing not in SHARING:
            raise ConfigError(f"ssa sharing {sharing!r}: need one of {', '.join(SHARING)}")
        if soft_bias is not None and (sharing != "unshared_bias" or not 0 < soft_bias <= 100):
            raise ConfigError(
                f"ssa_soft_bias={soft_bias}: a number above 0, up to 100, with "
                "ssa_variant=unshared_bias"
            )
        self.sharing, self.soft_bias = sharing, soft_bias

    def forward(
        self, feats: Tensor, grid: tuple[int, int], cover: Tensor, sspe: Tensor, valid: Tensor
    ) -> Tensor:
        """feats (B,P,C), cover (B,N,P), sspe (B,N,C), valid (B,N) bool -> (B,N,C).

        `cover` and `sspe` are zero on padding; the result is anything there.
        """
        pos = sine_position(grid, feats.shape[2], feats.device)
        if self.sharing == "shared":
            pos = spread(cover, sspe, pos)
        native = feats.to(self.ffn[0].linear1.weight.dtype)  # type: ignore[union-attr, arg-type]
        keys = native + pos.to(native.dtype)
        allowed = None
        if self.sharing == "unshared_bias":
            allowed = touched(cover) if self.soft_bias is None else penalty(cover, self.soft_bias)
        crossings = self.crossings()
        # The patches do not change from layer to layer: one product each for all keys and values.
        every = (crossings.all_layers(keys, KEY), crossings.all_layers(native, VALUE))
        looks = [
            _to_patches(attn, k, v, allowed)
            for attn, k, v in zip(self.crossing, *every, strict=True)
        ]
        # Added to scores, over (heads, queries): 0 where there is a superpixel, else -inf.
        real = valid.to(native.dtype).log()[:, None, None]
        t = pool(cover, feats).to(native.dtype)
        return self.decode(t, q_pos=sspe, crossings=crossings, looks=looks, allowed=real)


def _to_patches(attn: Attention, k: Tensor, v: Tensor, allowed: Tensor | None) -> Look:
    """Attention to projected keys and values (B,P,C)."""
    return lambda q: attn(q, k, v, allowed)


def pool(cover: Tensor, feats: Tensor) -> Tensor:
    """Eq. 2: the mean (B,N,C) of the patches (B,P,C) under each superpixel, by coverage (B,N,P).

    A superpixel out of view has no coverage and gives zeros. Summed in float32.
    """
    with torch.autocast(feats.device.type, enabled=False):
        wide = torch.promote_types(feats.dtype, torch.float32)
        share = cover.to(wide)
        total = share.sum(dim=2, keepdim=True).clamp_min(1e-6)
        return (share @ feats.to(wide) / total).to(feats.dtype)


def spread(cover: Tensor, sspe: Tensor, pos: Tensor) -> Tensor:
    """Eq. 3: every patch's position (P,C) and the SSPE of what covers it, (B,N,P), (B,N,C).

    (B,P,C), summed in float32.
    """
    with torch.autocast(sspe.device.type, enabled=False):
        wide = torch.promote_types(sspe.dtype, torch.float32)
        return torch.baddbmm(pos.to(wide), cover.to(wide).mT, sspe.to(wide))


def touched(cover: Tensor) -> Tensor:
    """(B,1,N,P) bool: patches with any coverage; a row without (padding) may look everywhere."""
    some = cover > 0
    return (some | ~some.any(dim=2, keepdim=True)).unsqueeze(1)


def penalty(cover: Tensor, strength: float) -> Tensor:
    """(B,1,N,P) float32, <= 0: `strength` * log of the coverage, of at least one millionth."""
    return strength * cover.float().clamp(1e-6, 1).log().unsqueeze(1)


def binarised(cover: Tensor) -> Tensor:
    """Coverage (B,N,P) as 0 or 1: at least one half, or the best patch of a superpixel without one.

    A superpixel without any coverage (padding, out of view) stays without.
    """
    kept = cover >= 0.5
    lost = ~kept.any(2, keepdim=True) & (cover > 0)
    best = torch.zeros_like(kept).scatter(2, cover.argmax(2, keepdim=True), True)
    return (kept | lost & best).to(cover.dtype)
