"""Image resizing shared by SAM and the vision encoders, in every command.

Pillow's antialiased filters are separable, and each of its two passes rounds to 8 bits, so their
order can be seen in the result. Up to version 12.2 the horizontal pass always came first; from 13.0
on, whichever is cheaper. Cached bits must not depend on that: here the passes are two calls, along
the rows and then along the columns, which is what the published weights were trained with.
"""

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

Filter = Literal["bilinear", "bicubic"]
Box = tuple[float, float, float, float]


def resize(
    image: NDArray[np.uint8], height: int, width: int, kind: Filter, box: Box | None = None
) -> NDArray[np.uint8]:
    """`image` (H,W,3) uint8 to (height,width,3): Pillow's filter, along x first, then along y.

    box  (x0, y0, x1, y1) in pixels of `image`, the part that is seen; None: all of it

    Bit-equal to `Image.resize` of Pillow 12.2 with the same filter and box.
    """
    from PIL import Image

    x0, y0, x1, y1 = box or (0, 0, image.shape[1], image.shape[0])
    seen = Image.fromarray(image)
    seen = _pass(seen, (width, seen.height), kind, (x0, 0, x1, seen.height))
    return np.array(_pass(seen, (width, height), kind, (0, y0, width, y1)))


def _pass(image: "Image", size: tuple[int, int], kind: Filter, box: Box) -> "Image":
    from PIL import Image

    how = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[kind]
    return image.resize(size, how, box, reducing_gap=None)
