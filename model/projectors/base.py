"""Projector interface: patch features in, visual tokens of a language model out.

A projector says which extra inputs it needs, how many tokens it makes of a grid, and under which
names its published weights come. The grid is always given: no code takes a square root of P.
Inputs are never modified.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ...pipeline.display import counted, show
from ...pipeline.errors import ConfigError, WeightsError
from ..batch import Visual
from ..mixed_precision import weights_cast
from .grid import cells
from .token_answer import TokenAnswer


@dataclass(frozen=True, slots=True)
class MaskInput:
    """Superpixels as the cache stores them, zero on padding.

    cover (B,N,P) float, share of each patch that each superpixel covers
    small (B,N,h',w') uint8 in {0,1} on the SSPE grid (floating: soft masks in [0,1])
    real  (n,) int64 places of the real superpixels in the flattened (B*N), at least one per image;
          None: read from the device
    """

    cover: Tensor
    small: Tensor
    real: Tensor | None = None


class Rename(NamedTuple):
    """Keys that match `old` as a whole become `new`, a template of re.Match.expand; None: dropped."""

    old: str
    new: str | None = r"\g<0>"


Projected = Tensor | tuple[Tensor, Tensor]  # tokens, or tokens and which of them are real


class Projector(nn.Module):
    """Patches (B,P,C) -> visual tokens (B,K,D). Subclasses write `project` and `num_tokens`.

    `needs` holds the extra inputs among "cls", "multi" and "masks"; without "masks" every token is
    valid, unless `project` says which are. One that may do without patches says when in
    `reads_patches`. `prefixes` and `renames` say which published names `from_original` accepts. One
    with position embeddings that a stage may leave out sets `supports_sspe`. `adjustable` names the
    options that change no weight, which an evaluation may set (`--set`). `answers` says which tokens an
    expression means, of one that was built with it. Under autocast all is computed in its dtype but the
    parameters named in `exact`.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    prefixes: ClassVar[tuple[str, ...]] = ()
    renames: ClassVar[tuple[Rename, ...]] = ()
    supports_sspe: ClassVar[bool] = False
    exact: ClassVar[frozenset[str]] = frozenset()
    adjustable: ClassVar[frozenset[str]] = frozenset()
    add_sspe: bool = True
    needs_patches: bool = True  # what `reads_patches` says of the options it was built with
    _compiled: Callable[["Projector", Visual], Projected] | None = None

    def __init__(self, *, in_dim: int, llm_dim: int) -> None:
        super().__init__()
        self.in_dim, self.llm_dim = in_dim, llm_dim
        self.answers: TokenAnswer | None = None

    @property
    def multi_dim(self) -> int:
        """Channels of `multi`: four encoder layers side by side, unless a projector says more."""
        return 4 * self.in_dim

    @property
    def _dtype(self) -> torch.dtype:
        """Of the arithmetic; autocast's within its forward pass."""
        return next(p.dtype for name, p in self.named_parameters() if name not in self.exact)

    def set_sspe(self, add: bool) -> None:
        """Add the position embeddings to the tokens or not; without effect where there are none."""
        if self.supports_sspe:
            self.add_sspe = add

    @classmethod
    def reads_patches(cls, options: Mapping[str, Any]) -> bool:
        """Whether it reads single patches with these options; else the means by superpixel do."""
        return True

    def compile_project(self, backend: str = "inductor") -> None:
        """Compile `project` for training: what lies between two products becomes one kernel.

        One compilation serves all sizes of batches but 1. Parameters and their names stay, and so
        do gradients within rounding. In evaluation `project` runs as it is.
        """
        self._compiled = torch.compile(type(self).project, backend=backend, dynamic=True)

    def num_tokens(self, grid: tuple[int, int]) -> int | None:
        """Visual tokens K for this grid; None where K varies by image. Raises ConfigError."""
        raise NotImplementedError

    def most_tokens(self, grid: tuple[int, int]) -> int | None:
        """Most visual tokens of an image; None: as many as it has superpixels. Raises ConfigError.

        One whose `num_tokens` is None without reading superpixels must say.
        """
        return self.num_tokens(grid)

    def token_counts(self, x: Visual) -> list[int]:
        """Visual tokens of each image; waits for values where their number varies."""
        fixed = self.num_tokens(x.grid)
        if fixed is not None:
            return [fixed] * len(x.patches)
        assert x.valid is not None, "one that counts by other things than superpixels says how"
        counts: list[int] = x.valid.sum(1).tolist()
        return counts

    def draw(self, key: int | None) -> None:
        """Choose the number of tokens of a training step by `key`; None: all. Most have one number.

        Called before each step with a key that is the same on all ranks and for all micro-batches.
        """

    def places(self, grid: tuple[int, int]) -> tuple[int, ...] | None:
        """Positions of the tokens among those of all patches, which the language model then sees.

        None: one after the other.
        """
        return None

    def pieces(self, x: Visual) -> Tensor | None:
        """(B,K,P) float32, the share of each patch that each token stands for, zero on padding.

        None: of none, see `pieces_of`.
        """
        return x.cover if "masks" in self.needs else None

    def pieces_of(self, x: Visual, tokens: Tensor) -> Tensor:
        """(B,K,P) `pieces`, or for `tokens` (B,K,D) that stand for none equal cells in raster order."""
        found = self.pieces(x)
        if found is None:
            alike = cells(tokens.shape[1], x.grid).to(tokens.device)
            found = alike.expand(len(tokens), -1, -1)
        return found

    def project(self, x: Visual) -> Projected:
        """Checked inputs, features in the module's dtype -> tokens (B,K,D).

        Where their number varies by more than the superpixels also which are real (B,K) bool, these
        first.
        """
        raise NotImplementedError

    def forward(
        self,
        patches: Tensor,
        grid: tuple[int, int],
        *,
        cls: Tensor | None = None,
        multi: Tensor | None = None,
        masks: MaskInput | None = None,
        mask_valid: Tensor | None = None,
        means: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Tokens (B,K,D) and which of them are real, (B,K) bool.

        patches (B,P,C) in raster order, without CLS and registers; grid (h,w); cls (B,C); multi
        (B,P,4C); mask_valid (B,N) bool; means (B,N,C), see `Visual`. What the projector does not
        need is ignored. Raises ConfigError (a ValueError) on a missing input or on shapes that do
        not fit.
        """
        cover, small = (masks.cover, masks.small) if masks is not None else (None, None)
        real = masks.real if masks is not None else None
        x = Visual(patches, grid, cover, small, mask_valid, cls, multi, means, real)
        self._check(x)
        project = self._compiled if self._compiled and self.training else type(self).project
        with weights_cast(self, self.exact):
            tokens = project(self, self._native(x))
        if isinstance(tokens, tuple):
            return tokens
        if "masks" in self.needs and mask_valid is not None:
            return tokens, mask_valid
        return tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)

    @classmethod
    def options(cls) -> frozenset[str]:
        """Names of the constructor's keywords beside in_dim, llm_dim and grid."""
        return frozenset(signature(cls).parameters) - {"in_dim", "llm_dim", "grid"}

    @classmethod
    def from_original(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Published names -> this module's names; shapes unchanged. Raises WeightsError.

        Keys come bare or all under one of `prefixes`. Missing keys show in the strict load.
        """
        bare = cls._strip(state)
        unknown = [key for key in bare if not any(re.fullmatch(r.old, key) for r in cls.renames)]
        if unknown:
            names = ", ".join(show(key) for key in sorted(unknown)[:8])
            raise WeightsError(f"{cls.__name__} knows no weights named {names}: wrong projector?")
        named = ((cls._rename(key), value) for key, value in bare.items())
        return {key: value for key, value in named if key is not None}

    @classmethod
    def _strip(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        for prefix in cls.prefixes:
            if state and all(key.startswith(prefix) for key in state):
                return {key.removeprefix(prefix): value for key, value in state.items()}
        return state

    @classmethod
    def _rename(cls, key: str) -> str | None:
        for old, new in cls.renames:
            if match := re.fullmatch(old, key):
                return match.expand(new) if new is not None else None
        raise AssertionError(key)

    def _native(self, x: Visual) -> Visual:
        """Features in the module's dtype; `cover` stays as exact as it came."""
        kind = self._dtype
        cls = None if x.cls is None else x.cls.to(kind)
        multi = None if x.multi is None else x.multi.to(kind)
        means = None if x.means is None else x.means.to(kind)
        return replace(x, patches=x.patches.to(kind), cls=cls, multi=multi, means=means)

    def _check(self, x: Visual) -> None:
        name, (h, w) = type(self).__name__, x.grid
        if x.means is not None and self.needs_patches:
            raise ConfigError(f"{name} reads patch features: there are only means of superpixels")
        if x.means is not None and x.means.shape[2] != self.in_dim:
            found = counted(x.means.shape[2], "channel")
            raise ConfigError(f"{name}: means of {found}, not {self.in_dim}")
        if x.means is None and x.patches.shape[1:] != (h * w, self.in_dim):
            got = tuple(x.patches.shape[1:])
            raise ConfigError(f"{name}: patches {got} do not fit grid {h}x{w} x {self.in_dim}")
        self.num_tokens(x.grid)
        have = {"cls": x.cls, "multi": x.multi, "masks": x.cover if x.valid is not None else None}
        if missing := sorted(need for need in self.needs if have[need] is None):
            raise ConfigError(f"{name} needs {', '.join(missing)}: the cache or caller gives none")
        if "multi" in self.needs and x.multi is not None and x.multi.shape[2] != self.multi_dim:
            raise ConfigError(
                f"{name}: multi has {counted(x.multi.shape[2], 'channel')}, not {self.multi_dim}"
            )


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Linear, exact GELU, Linear: the head of most projectors."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))


def start_linears(model: nn.Module) -> None:
    """Start values of every Linear within: weights truncated normal of 0.02, biases 0."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
