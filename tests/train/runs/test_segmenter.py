"""Pictures in memory go the way of their files; weight files are read or refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from svp.pipeline.datasets.images import read_image
from svp.pipeline.errors import ConfigError, ImageError
from svp.pipeline.precompute.options import Flags, resolve
from svp.pipeline.records import LocalPaths
from svp.pipeline.weights.reference import WeightsRef
from svp.train.runs.inputs import require_read
from svp.train.runs.photo import place_photo


def test_a_picture_in_memory_is_converted_as_its_file(tmp_path: Path) -> None:
    """16-bit grey: Pillow's own conversion to RGB would make almost all of it white."""
    grey = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    picture = Image.fromarray(grey)
    picture.save(tmp_path / "grey.png")
    place_photo(picture, tmp_path / "copy")
    assert np.array_equal(read_image(tmp_path / "copy"), read_image(tmp_path / "grey.png"))
    with pytest.raises(ImageError, match="the image: unsupported-mode: mode F"):
        place_photo(Image.new("F", (4, 4)), tmp_path / "copy")


@pytest.mark.parametrize("kind", ["shipped", "random:3"])
def test_a_weight_file_that_would_not_be_read_is_refused(kind: str, tmp_path: Path) -> None:
    recipe, _ = resolve("tiny", None, Flags(), (), tmp_path)
    own = recipe.superpixels.model_copy(update={"weights": WeightsRef.parse(kind)})
    recipe = recipe.model_copy(update={"superpixels": own})
    require_read(recipe, LocalPaths(tmp_path))
    with pytest.raises(ConfigError, match=rf"--sam-weights .*sam.pth would not be read: .* {kind}"):
        require_read(recipe, LocalPaths(tmp_path, tmp_path / "sam.pth"))
    with pytest.raises(ConfigError, match=r"--encoder-weights .*would not be read: .* shipped"):
        require_read(recipe, LocalPaths(tmp_path, None, tmp_path / "dino"))
    named = own.model_copy(update={"weights": WeightsRef.parse("sha256:" + "0" * 64)})
    require_read(
        recipe.model_copy(update={"superpixels": named}), LocalPaths(tmp_path, tmp_path / "sam.pth")
    )
