"""Adapter for any `segment_anything.modeling.Sam`: official ViTs, the tiny SAM, MobileSAM.

exact   float32 without TF32, one image at a time, the published modules called as `SamPredictor`
        calls them: logits are bit-equal to its `predict_torch` for the same points.
fast    batched encoder (`image_encoder.FastViT`), `mask_decoder.decode_shared`, optionally weights and
        arithmetic in bfloat16/float16, on CUDA `torch.compile` of both. Same model, other
        rounding: masks near a threshold may change. Prompt codes stay float32: sin(2 pi x) of a
        bfloat16 coordinate is noise.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor

from ..errors import WeightsError
from ..process import compiles
from ..weights.key_report import KeyReport
from . import mask_decoder as md
from .image_encoder import FastViT
from .mask_decoder import Wanted
from .preprocess import target_size, to_input

# On a CPU the published decoder gets prompts in even groups, whose copies of the image tokens stay in
# its cache. A prompt's bits do not depend on the others, but in groups of one or two.
CPU_GROUP_BYTES = 2 << 20
LEAST_GROUP = 8

Dtype = Literal["float32", "bfloat16", "float16"]


class SamPackage:
    """`SamBackend` over a `modeling.Sam`, which it takes over (see module docstring for `mode`).

    `compiled`: None compiles in fast mode on CUDA with Triton; the first batch then takes a minute
    or more.
    """

    def __init__(
        self,
        sam: Any,
        *,
        mode: Literal["exact", "fast"] = "exact",
        dtype: Dtype = "float32",
        device: str | torch.device = "cpu",
        compiled: bool | None = None,
        report: KeyReport | None = None,
    ) -> None:
        self.sam = sam.to(device).eval().requires_grad_(False)
        self.mode, self.report = mode, report
        self.device = torch.device(device)
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._image_pe: Tensor = self.sam.prompt_encoder.get_dense_pe()
        encoder = self.sam.image_encoder
        self._attend, self._masks = md.attend_published, md.masks_published
        self._pixels = torch.float32
        autocast: Dtype = dtype
        if mode == "fast":
            self.sam.mask_decoder.to(self._dtype)
            self._attend, self._masks = md.attend_shared, md.masks_shared
            if isinstance(encoder, ImageEncoderViT):
                encoder = FastViT(encoder.to(self._dtype))
                self._pixels, autocast = self._dtype, "float32"
        self._precision = Precision(self.device, autocast, exact=mode == "exact")
        if compiled is None:
            compiled = mode == "fast" and compiles(self.device.type)
        if compiled:
            encoder = torch.compile(encoder)
            self._attend, self._masks = torch.compile(self._attend), torch.compile(self._masks)
        self._encode = encoder

    @property
    def image_size(self) -> int:
        return int(self.sam.image_encoder.img_size)

    @property
    def channels(self) -> int:
        """C of the image embedding."""
        return int(self.sam.prompt_encoder.embed_dim)

    def frame(self, height: int, width: int) -> tuple[int, int]:
        """See `SamBackend.frame`."""
        return target_size(height, width, self.image_size)

    def embed(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """See `SamBackend.embed`. `WeightsError` if the encoder overflows or gives NaN."""
        batch = to_input(images, self.image_size, self.sam.pixel_mean, self.sam.pixel_std)
        batch = batch.to(self._pixels)
        with torch.no_grad(), self._precision():
            parts = [image[None] for image in batch] if self.mode == "exact" else [batch]
            features = torch.cat([self._encode(part) for part in parts])
        return require_finite(features.float())

    def decode(
        self, features: Tensor, points: Tensor, wanted: Wanted | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `SamBackend.decode`."""
        points = points.to(self.device)[:, None]  # (P,1,2)
        features = features.to(self.device)[None]
        with torch.no_grad():
            if self.mode == "fast" or self.device.type != "cpu":
                return self._decode(features, points, wanted)
            size = max(LEAST_GROUP, CPU_GROUP_BYTES // (4 * features.numel()))
            groups = max(1, -(-len(points) // size))
            parts = points.tensor_split(groups)
            found = [self._decode(features, part, wanted) for part in parts]
        return torch.cat([logits for logits, _ in found]), torch.cat([iou for _, iou in found])

    def _decode(
        self, features: Tensor, points: Tensor, wanted: Wanted | None
    ) -> tuple[Tensor, Tensor]:
        """`decode` of one group of points (P,1,2)."""
        labels = torch.ones(points.shape[:2], dtype=torch.int, device=self.device)
        sparse, dense = self.sam.prompt_encoder((points, labels), None, None)
        inputs = [features, self._image_pe, sparse, dense]
        if self.mode == "fast":
            inputs = [x.to(self._dtype) for x in (features, self._image_pe, sparse, dense[:1])]
        with self._decoding():
            hyper, image, iou = self._attend(self.sam.mask_decoder, *inputs)
            count = len(points)
            if wanted is not None:
                rows = wanted(iou.float()).nonzero()[:, 0]
                count = len(rows)
                if (
                    count == 1 < len(points)
                ):  # alone it would be convolved in another memory layout and round so
                    rows = rows.repeat(2)
                hyper, image = (x[rows.to(self.device)] for x in (hyper, image))
            logits = self._masks(self.sam.mask_decoder, hyper, image, inputs[0])[:count]
        return logits.float(), iou.float()

    def _decoding(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.mode == "fast" else self._precision()


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
