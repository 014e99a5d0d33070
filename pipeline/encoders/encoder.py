"""Patch features of a frozen vision encoder, rounded as the cache stores them.

An `Encoder` applies the recipe's view itself, so that what it sees is what the masks are resized
to. It batches what it is given and pads nothing. Invariant: no NaN, no infinity and no value that
float16 cannot hold leaves through `Features.rounded`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..display import counted
from ..errors import ConfigError, ImageError
from ..masks.encoder_view import View
from ..recipe import FeatureConfig, encoder_row
from .backbone import Backbone

if TYPE_CHECKING:
    from torch import Tensor, nn

FLOAT16_MAX = 65504.0


@dataclass(frozen=True, slots=True)
class StoredFeatures:
    """Stored features of one image, all float16: (P,C); (C,) or None; (L,P,C) or None."""

    patches: NDArray[np.float16]
    cls: NDArray[np.float16] | None
    layers: NDArray[np.float16] | None


@dataclass(frozen=True, slots=True)
class Features:
    """Features of B images, float32.

    patches  (B,P,C), raster order
    cls      (B,C), or None if the recipe does not ask for it
    layers   (B,L,P,C) in the recipe's order, or None
    """

    patches: NDArray[np.float32]
    cls: NDArray[np.float32] | None = None
    layers: NDArray[np.float32] | None = None

    def rounded(self, name: str, index: int) -> NDArray[np.float16] | None:
        """Array `name` of image `index` as float16, None if it was not asked for.

        Raises ImageError("non-finite" or "overflow") if it cannot be kept as float16.
        """
        array: NDArray[np.float32] | None = getattr(self, name)
        if array is None:
            return None
        peak = float(np.abs(array[index]).max(initial=0.0))  # NaN stays NaN
        if not np.isfinite(peak):
            bad = int((~np.isfinite(array[index])).sum())
            raise ImageError(
                "non-finite", f"{name}: {counted(bad, 'value', 'are')} NaN or infinite"
            )
        if peak > FLOAT16_MAX:
            raise ImageError(
                "overflow", f"{name}: |x| reaches {peak:.6g}, float16 ends at {FLOAT16_MAX:.0f}"
            )
        found: NDArray[np.float16] = array[index].astype(np.float16)
        return found

    def stored(self, index: int) -> StoredFeatures:
        """Image `index` rounded to float16. Raises as `rounded`."""
        patches = self.rounded("patches", index)
        assert patches is not None
        return StoredFeatures(patches, self.rounded("cls", index), self.rounded("layers", index))


class Encoder:
    """A frozen backbone with its view, layers and precision. Build it with `build_encoder`."""

    def __init__(self, backbone: Backbone, config: FeatureConfig, device: str) -> None:
        import torch

        check_options(backbone, config)
        self.config = config
        self.device = device
        self.view = View(config.view, config.size)
        self.dim = backbone.dim
        side = config.size // backbone.patch
        self.grid = (side, side)
        self._dtype = getattr(torch, config.dtype)
        self._backbone = backbone
        backbone.model.to(device=device, dtype=self._dtype).eval().requires_grad_(False)
        spec = encoder_row(config.encoder)
        assert spec is not None, "the recipe has checked the name"
        self._mean, self._std = (
            torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (spec.mean, spec.std)
        )

    @property
    def model(self) -> "nn.Module":
        """The backbone's weights."""
        return self._backbone.model

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> Features:
        """Features of B images, uint8 (H,W,3) of any size.

        Images are passed through the view first; one that already went through it is unchanged.
        """
        import torch

        if not images:
            return self._empty()
        device = self._mean.device
        seen = torch.stack([self.view.tensor(image, device) for image in images])
        # TF32 and autotuned convolutions would make bits depend on the device's mood.
        exact = torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        )
        with torch.inference_mode(), exact:
            tokens = self._backbone.tokens(self._normalise(seen), self.config.layers)
            layers = torch.stack(tokens.layers, dim=1) if tokens.layers else None
            return Features(
                patches=_numpy(tokens.patches),
                cls=_numpy(tokens.cls) if self.config.cls and tokens.cls is not None else None,
                layers=None if layers is None else _numpy(layers),
            )

    def _normalise(self, seen: "Tensor") -> "Tensor":
        """uint8 (B,S,S,3) to (B,3,S,S) in the model's dtype; the arithmetic is float32."""
        pixels = seen.permute(0, 3, 1, 2).float().div_(255)
        return ((pixels - self._mean) / self._std).to(self._dtype)

    def _empty(self) -> Features:
        shape = (0, self.grid[0] * self.grid[1], self.dim)
        count = len(self.config.layers)
        return Features(
            patches=np.zeros(shape, np.float32),
            cls=np.zeros((0, self.dim), np.float32) if self.config.cls else None,
            layers=np.zeros((0, count, *shape[1:]), np.float32) if count else None,
        )


def check_options(backbone: Backbone, config: FeatureConfig) -> None:
    """ConfigError for a size or a layer that the model does not have; needs no weights."""
    backbone.require_size(config.size)
    for layer in config.layers:
        if not 1 <= layer <= backbone.depth:
            raise ConfigError(f"features.layers={layer}: allowed are 1..{backbone.depth}")


def _numpy(tensor: "Tensor") -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.float().cpu().contiguous().numpy()
    return array
