"""Pictures in memory go the way of their files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from svp.pipeline.datasets.images import read_image
from svp.pipeline.errors import ImageError
from svp.train.runs.predictor import _place


def test_a_picture_in_memory_is_converted_as_its_file(tmp_path: Path) -> None:
    """16-bit grey: Pillow's own conversion to RGB would make almost all of it white."""
    grey = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    picture = Image.fromarray(grey)
    picture.save(tmp_path / "grey.png")
    _place(picture, tmp_path / "copy")
    assert np.array_equal(read_image(tmp_path / "copy"), read_image(tmp_path / "grey.png"))
    with pytest.raises(ImageError, match="the image: unsupported-mode: mode F"):
        _place(Image.new("F", (4, 4)), tmp_path / "copy")
