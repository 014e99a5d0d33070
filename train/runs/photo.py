"""Photographs as a user gives them: a path, bytes, an array or a PIL image."""

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ...pipeline.datasets.images import Header, image_header, read_image, to_rgb
from ...pipeline.datasets.scenes.generated import is_generated
from ...pipeline.display import show
from ...pipeline.errors import ConfigError, ImageError, MissingError
from ...pipeline.io.paths import expand
from ...pipeline.store import is_url

Photo = str | Path | bytes | NDArray[np.uint8] | Image.Image


def photo_header(path: Path) -> Header:
    """Size and orientation. MissingError for what is not there, ImageError as `image_header`."""
    try:
        return image_header(path)
    except ImageError as error:
        if error.reason == "missing":
            raise MissingError(f"{show(str(path), 300)}: no such photograph") from None
        raise


def place_photo(image: Photo, copy: Path) -> tuple[str, bool]:
    """Put the photograph at `copy`, a name that no rule refuses.

    Returns what messages call it, and whether it is a generated scene.
    """
    if isinstance(image, bytes):
        copy.write_bytes(image)
        try:
            read_image(copy)
        except ImageError as error:
            said = str(error).replace(f"image {show(str(copy), 160)}", "the image")
            raise ImageError(error.reason, said) from None
        return "the image", False
    if isinstance(image, str) and is_url(image):
        raise ConfigError(f"{show(image, 300)}: an address: give a file, or the bytes of one")
    if isinstance(image, str | Path):
        path = expand(image) if isinstance(image, str) else image
        photo_header(path)
        read_image(path)  # damage is told with the path that the user gave
        shutil.copyfile(path, copy)
        return show(path.name), is_generated([path])
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ConfigError(f"image: {image.dtype} {image.shape}, want uint8 RGB (H,W,3)")
        image = Image.fromarray(image)
    upright = to_rgb(ImageOps.exif_transpose(image), Path("the image"))
    Image.fromarray(upright).save(copy, "PNG", compress_level=1)
    return "the image", False
