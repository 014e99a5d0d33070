"""SAM preprocessing: resize the longest side to S pixels, normalise, zero-pad to S x S.

Bit-equal to segment-anything's `ResizeLongestSide.apply_image` + `Sam.preprocess` under Pillow 12.2
(bilinear on uint8, x before y, which is what the model was trained with; see `resize`), without
needing torchvision. One deliberate difference: a side never becomes 0, so 1 x 3000 images work.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..masks.resize import resize, resize_tensor

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def target_size(height: int, width: int, longest: int) -> tuple[int, int]:
    """(h, w) after resizing so that the longer side is `longest` pixels; rounds half up, min 1.

    Source: segment_anything/utils/transforms.py `get_preprocess_shape`.

    >>> target_size(480, 640, 1024)
    (768, 1024)
    """
    scale = longest * 1.0 / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize_longest(
    image: NDArray[np.uint8],
    longest: int,
    device: "torch.device | None" = None,
    frame: Callable[[int, int], tuple[int, int]] | None = None,
) -> "Tensor":
    """`image` (H,W,3) uint8 resized to `target_size`, bilinear (antialiased when shrinking).

    frame  another size (h,w) of an image of (H,W): a SAM that stretches images to a square
    device  where the result is; by Pillow on the CPU (None), else computed there: the same bits
    """
    import torch

    height, width = image.shape[:2]
    size = frame(height, width) if frame else target_size(height, width, longest)
    if device is None or device.type == "cpu":
        return torch.from_numpy(resize(image, *size, "bilinear"))
    whole = torch.from_numpy(np.ascontiguousarray(image)).to(device)
    return resize_tensor(whole, *size, "bilinear")


def to_input(
    images: Sequence[NDArray[np.uint8]],
    longest: int,
    mean: "Tensor",
    std: "Tensor",
    frame: Callable[[int, int], tuple[int, int]] | None = None,
) -> "Tensor":
    """Images (H,W,3) uint8 RGB of any sizes -> (B,3,S,S) float32 on the device of `mean`.

    `mean`, `std` (3,1,1) float32 in units of 0..255. Padding is 0 *after* normalisation.
    frame as in `resize_longest`.
    """
    import torch

    batch = torch.zeros((len(images), 3, longest, longest), device=mean.device)
    for slot, image in zip(batch, images, strict=True):
        pixels = resize_longest(image, longest, mean.device, frame)
        height, width = pixels.shape[:2]
        slot[:, :height, :width] = (pixels.permute(2, 0, 1) - mean) / std
    return batch
