"""SVP, the semantic visual projector: one token per superpixel (arXiv 2509.13676).

    masks -> SSPE -> S        masks, patches -> Eq. 2 -> E0        (E0, patches, S) -> SSA -> E
    Eq. 1   X = MLP(E + S)    stage 1: X = MLP(E), `add_sspe = False`

Permuting the superpixels of an image permutes its tokens; neither padding nor the other images of
the batch change them.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ....pipeline.errors import ConfigError
from ...batch import Visual
from ..base import Projector, Rename, mlp
from ..packing import Packing
from .mask_batches import check_budget, split_by_size
from .ssa import SHARING, SSA, binarised, pool
from .sspe_variants import MASK_SIDE, build_sspe

STARTS = ("xavier", "pooled")
LEVELS = 8  # of log2 of the number of tokens


class SVP(Projector):
    """52,373,376 parameters at 1024 -> 4096 with the defaults.

    `set_sspe` is called per stage. With `ssa_variant="none"` and `add_sspe`
    False the SSPE touches no token and gets no gradient: DDP then needs find_unused_parameters.
    `sspe_variant` and `ssa_variant` are the rows of Tables 4 and 5; both "none" is the Baseline;
    `mask_side` is the grid of Mask-MLP.
    `ssa_start="pooled"` lets the SSA add nothing at first: its tokens start as the normalised mean
    of their patches (Eq. 2), so that a pretrained MLP knows them at once; the paper's is "xavier".
    `binary_cover` reads a patch as covered or not (at least one half) in Eq. 2 and 3;
    `ssa_soft_bias` makes the bias of `unshared_bias` soft. `mask_budget_mode="per_image"` shares
    `mask_budget` pixels among an image's superpixels; it needs a cache with finer masks (sspe.budget).
    `counted` adds to every token an embedding of log2 of how many the image has, for models that are
    trained with budgets of superpixels.
    Raises ConfigError for options that do not fit each other.
    """

    needs = frozenset({"masks"})
    supports_sspe = True
    renames = (Rename(r"(sspe|ssa|mlp|level|answers)\..+"),)

    @classmethod
    def reads_patches(cls, options: Mapping[str, Any]) -> bool:
        """Without SSA a token is made of its superpixel's mean (Eq. 2) by the stored coverage."""
        return options.get("ssa_variant") != "none" or bool(options.get("binary_cover"))

    def __init__(
        self,
        *,
        in_dim: int,
        llm_dim: int,
        num_queries: int = 16,
        sspe_dim: int = 128,
        sspe_heads: int = 8,
        sspe_blocks: int = 3,
        sspe_ffn: int = 2048,
        ssa_heads: int = 16,
        ssa_blocks: int = 3,
        ssa_ffn: int = 2048,
        mlp_hidden: int = 2048,
        mask_budget_mode: str = "per_mask",
        mask_budget: int | None = None,
        sspe_variant: str = "mask_att",
        mask_side: int = MASK_SIDE,
        ssa_variant: str = "shared",
        ssa_start: str = "xavier",
        ssa_soft_bias: float | None = None,
        binary_cover: bool = False,
        add_sspe: bool = True,
        counted: bool = False,
    ) -> None:
        super().__init__(in_dim=in_dim, llm_dim=llm_dim)
        self.mask_budget = check_budget(mask_budget_mode, mask_budget)
        self.mask_budget_mode, self.add_sspe = mask_budget_mode, add_sspe
        self.sspe = build_sspe(
            sspe_variant,
            out_dim=in_dim,
            queries=num_queries,
            dim=sspe_dim,
            heads=sspe_heads,
            blocks=sspe_blocks,
            ffn=sspe_ffn,
            mask_side=mask_side,
        )
        self.binary_cover = binary_cover
        self.needs_patches = self.reads_patches(
            {"ssa_variant": ssa_variant, "binary_cover": binary_cover}
        )
        if ssa_soft_bias is not None and ssa_variant == "none":
            raise ConfigError("ssa_soft_bias: there is no SSA with ssa_variant=none")
        self.ssa = _build_ssa(ssa_variant, in_dim, ssa_heads, ssa_blocks, ssa_ffn, ssa_soft_bias)
        if ssa_start not in STARTS:
            raise ConfigError(f"ssa_start {ssa_start!r}: need one of {', '.join(STARTS)}")
        if self.ssa is not None and ssa_start == "pooled":
            self.ssa.add_nothing()
        self.mlp = mlp(in_dim, mlp_hidden, llm_dim)
        self.level = nn.Embedding(LEVELS, llm_dim) if counted else None
        if self.level is not None:
            nn.init.zeros_(self.level.weight)  # adds nothing at first

    def num_tokens(self, grid: tuple[int, int]) -> int | None:
        """As many as the image has superpixels."""
        return None

    def project(self, x: Visual) -> Tensor:
        """Patches, cover, masks, valid -> (B,N,D), zero on padding."""
        assert x.masks is not None and x.valid is not None
        real = Packing.of(x.valid, x.real)
        return self.tokens(x, self.positions(x.masks, real), real)

    def _native(self, x: Visual) -> Visual:
        """Patches stay as they came: Eq. 2 averages them in float32."""
        return replace(super()._native(x), patches=x.patches)

    def positions(self, masks: Tensor, real: Packing) -> Tensor | None:
        """S, the SSPE of the packed superpixels (n,C); None in the variant without."""
        if self.sspe is None:
            return None
        groups = split_by_size(
            real.pack(masks),
            real.counts() if self.mask_budget_mode == "per_image" else [len(real.index)],
            mode=self.mask_budget_mode,
            budget=self.mask_budget,
        )
        if len(groups) == 1:  # one size: in their order
            alone: Tensor = self.sspe(groups[0][1])
            return alone
        rows = torch.cat([rows for rows, _ in groups])
        return torch.cat([self.sspe(small) for _, small in groups])[rows.argsort()]

    def tokens(self, x: Visual, sspe: Tensor | None, real: Packing) -> Tensor:
        """Eq. 1, with S (n,C) given -> (B,N,D)."""
        emb = real.pack(self._aggregate(x, sspe, real))
        if self.add_sspe and sspe is not None:
            emb = emb + sspe
        tokens = real.unpack(self.mlp(emb))
        return tokens if self.level is None else tokens + self._counted(self.level, x)

    def _counted(self, level: nn.Embedding, x: Visual) -> Tensor:
        """(B,N,D) of 1, 2-3, 4-7, ... tokens of an image, zero on padding."""
        assert x.valid is not None
        powers = 2 ** torch.arange(1, LEVELS, device=x.valid.device)
        log = (x.valid.sum(dim=1, keepdim=True) >= powers).sum(dim=1)
        found: Tensor = level(log)[:, None] * x.valid.unsqueeze(-1)
        return found

    def _aggregate(self, x: Visual, sspe: Tensor | None, real: Packing) -> Tensor:
        """E (B,N,C): SSA, or the average of Eq. 2 without it, which a thin cache has."""
        assert x.cover is not None and x.valid is not None
        if x.means is not None:
            return x.means
        cover = x.cover.masked_fill(~x.valid.unsqueeze(-1), 0)  # padding may hold anything
        if self.binary_cover:
            cover = binarised(cover)
        if self.ssa is None:
            return pool(cover, x.patches).to(self._dtype)
        packed = sspe
        if packed is None:
            packed = x.patches.new_zeros(len(real.index), self.in_dim, dtype=self._dtype)
        out: Tensor = self.ssa(x.patches, x.grid, cover, real.unpack(packed), x.valid)
        return out


def _build_ssa(
    variant: str, dim: int, heads: int, blocks: int, ffn: int, soft_bias: float | None
) -> SSA | None:
    if variant == "none":
        return None
    if variant not in SHARING:
        raise ConfigError(f"ssa_variant {variant!r}: need one of none, {', '.join(SHARING)}")
    return SSA(dim=dim, heads=heads, blocks=blocks, ffn=ffn, sharing=variant, soft_bias=soft_bias)
