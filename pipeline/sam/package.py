"""Adapter for any `segment_anything.modeling.Sam`: official ViTs, the tiny SAM, MobileSAM.

exact   float32 without TF32, one image at a time, the published modules called as `SamPredictor`
        calls them: logits are bit-equal to its `predict_torch` for the same points.
fast    batched encoder, `decoder.decode_shared`, optional bfloat16/float16 autocast and
        `torch.compile` of the encoder. Same model, other rounding: masks near a threshold may
        change. Prompt codes stay float32: sin(2 pi x) of a bfloat16 coordinate is noise.
"""

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import WeightsError
from ..weights.keyreport import KeyReport
from .decoder import decode_shared
from .preprocess import to_input

Dtype = Literal["float32", "bfloat16", "float16"]


class SamPackage:
    """`SamBackend` over a `modeling.Sam` (see module docstring for `mode`).

    `compile_encoder`: None compiles in fast mode on CUDA with Triton; the first batch then takes
    a minute or more.
    """

    def __init__(
        self,
        sam: Any,
        *,
        mode: Literal["exact", "fast"] = "exact",
        dtype: Dtype = "float32",
        device: str | torch.device = "cpu",
        compile_encoder: bool | None = None,
        report: KeyReport | None = None,
    ) -> None:
        self.sam = sam.to(device).eval().requires_grad_(False)
        self.mode, self.report = mode, report
        self.device = torch.device(device)
        self._precision = Precision(self.device, dtype, exact=mode == "exact")
        if compile_encoder is None:
            compile_encoder = mode == "fast" and _compiles(self.device)
        encoder = self.sam.image_encoder
        self._encode = torch.compile(encoder) if compile_encoder else encoder
        self._image_pe: Tensor = self.sam.prompt_encoder.get_dense_pe()

    @property
    def image_size(self) -> int:
        return int(self.sam.image_encoder.img_size)

    def embed(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """See `SamBackend.embed`. `WeightsError` if the encoder overflows or gives NaN."""
        batch = to_input(images, self.image_size, self.sam.pixel_mean, self.sam.pixel_std)
        with torch.no_grad(), self._precision():
            parts = [image[None] for image in batch] if self.mode == "exact" else [batch]
            features = torch.cat([self._encode(part) for part in parts])
        return require_finite(features.float())

    def decode(self, features: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """See `SamBackend.decode`."""
        points = points.to(self.device)[:, None]  # (P,1,2)
        labels = torch.ones(points.shape[:2], dtype=torch.int, device=self.device)
        features = features.to(self.device)[None]
        with torch.no_grad():
            sparse, dense = self.sam.prompt_encoder((points, labels), None, None)
            with self._precision():
                logits, iou = self._decode(features, sparse, dense)
        return logits.float(), iou.float()

    def _decode(self, features: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        decoder = self.sam.mask_decoder
        if self.mode == "fast":
            return decode_shared(decoder, features, self._image_pe, sparse, dense[:1])
        result: tuple[Tensor, Tensor] = decoder(
            image_embeddings=features,
            image_pe=self._image_pe,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
        return result


def _compiles(device: torch.device) -> bool:
    """CUDA with Triton; on a CPU compiling takes longer than a tiny run saves."""
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None


class Precision:
    """Context of one forward pass: autocast dtype, and no TF32 where results must be exact."""

    def __init__(self, device: torch.device, dtype: Dtype, *, exact: bool) -> None:
        self._device, self._dtype, self._exact = device.type, getattr(torch, dtype), exact

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        half = self._dtype != torch.float32
        with torch.autocast(self._device, dtype=self._dtype, enabled=half), self._cudnn():
            yield

    def _cudnn(self) -> contextlib.AbstractContextManager[None]:
        # cuDNN rounds float32 convolutions to 10 mantissa bits (TF32) unless told not to.
        if not self._exact:
            return contextlib.nullcontext()
        flags: Any = torch.backends.cudnn.flags
        exact: contextlib.AbstractContextManager[None] = flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        )
        return exact


def require_finite(features: Tensor) -> Tensor:
    """`features`, or `WeightsError`: NaN would pass every later `>` test as "no mask"."""
    if not bool(features.isfinite().all()):
        raise WeightsError(
            "the SAM encoder gave NaN or infinity: with dtype=float16 it may overflow (use "
            "bfloat16 or float32), otherwise the weights are damaged"
        )
    return features
