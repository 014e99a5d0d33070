"""The one resize: the same bits under every version of Pillow, in every shape, in every caller."""

import ast
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import svp
from svp.pipeline.masks.encoder_view import KINDS, View
from svp.pipeline.masks.resize import Box, Filter, resize, resize_tensor
from svp.pipeline.sam.preprocess import resize_longest

ROOT = Path(svp.__file__).parent
# Made once with Pillow 12.2.0, whose Image.resize gives them in one call, and again with 13.0.0,
# whose Image.resize gives others for tall pictures. Never make them again.
GOLDEN = [
    ((480, 640), (768, 1024), "bilinear", None, "13ed4176b1621462"),
    ((640, 480), (1024, 768), "bilinear", None, "efac601bfb3c5a5a"),
    ((1200, 300), (1024, 256), "bilinear", None, "cb7bd14223f49552"),
    ((3000, 40), (1024, 14), "bilinear", None, "f913b5f328cdf90f"),
    ((40, 3000), (14, 1024), "bilinear", None, "4685cd681b36a8e4"),
    ((1, 600), (2, 1024), "bilinear", None, "48a1f11a3054efac"),
    ((480, 640), (336, 336), "bicubic", None, "5700709c80e0de2f"),
    ((900, 300), (336, 336), "bicubic", None, "a20f210cb44da02c"),
    ((3000, 40), (336, 336), "bicubic", None, "9d9ab2f8372d00f1"),
    ((700, 900), (336, 336), "bicubic", (100.0, 0.0, 800.0, 700.0), "cf7ecfc976f79925"),
    ((900, 300), (336, 112), "bicubic", (0.5, 3.25, 299.0, 896.0), "70ee15fb9081bac7"),
]


def picture(height: int, width: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width].astype(np.int64)
    planes = [(x * 7 + y * 3) % 256, (x * x + y * 11) % 256, (x * y // 3 + (x ^ y) * 5) % 256]
    return np.stack(planes, axis=-1).astype(np.uint8)


@pytest.mark.parametrize(("size", "wanted", "kind", "box", "digest"), GOLDEN)
def test_bits_are_those_for_ever(
    size: tuple[int, int], wanted: tuple[int, int], kind: Filter, box: Box | None, digest: str
) -> None:
    found = resize(picture(*size), *wanted, kind, box)
    assert found.shape == (*wanted, 3) and found.dtype == np.uint8
    assert hashlib.sha256(found.tobytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize(("size", "wanted", "kind", "box", "digest"), GOLDEN)
def test_a_device_gives_the_same_bits(
    size: tuple[int, int], wanted: tuple[int, int], kind: Filter, box: Box | None, digest: str
) -> None:
    found = resize_tensor(torch.from_numpy(picture(*size)), *wanted, kind, box).numpy()
    assert hashlib.sha256(found.tobytes()).hexdigest()[:16] == digest


def test_a_device_gives_the_same_bits_of_any_size_and_box() -> None:
    draw = np.random.default_rng(0)
    for _ in range(100):
        height, width, *wanted = (
            int(draw.choice([1, 2, 3, draw.integers(4, 500)])) for _ in "abcd"
        )
        image = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        kind: Filter = "bilinear" if draw.random() < 0.5 else "bicubic"
        (x0, x1), (y0, y1) = (
            sorted(draw.choice([draw.uniform(0, side), 0, side], 2, replace=False))
            for side in (width, height)
        )
        box = (float(x0), float(y0), float(x1), float(y1)) if min(x1 - x0, y1 - y0) > 0.1 else None
        want = resize(image, *wanted, kind, box)
        found = resize_tensor(torch.from_numpy(image), *wanted, kind, box).numpy()
        assert (found == want).all(), (image.shape, wanted, kind, box)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_input_to_sam_and_the_encoders() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for size in ((480, 640), (1200, 300), (1, 600)):
        image = picture(*size)
        assert (resize_longest(image, 1024, gpu).cpu() == resize_longest(image, 1024, cpu)).all()
        for kind in KINDS:
            view = View(kind, 336)
            assert (view.tensor(image, gpu).cpu() == view.tensor(image, cpu)).all()


def test_the_order_of_the_passes_can_be_seen() -> None:
    """So that the digests would tell: along y first gives other bits."""
    image = picture(1200, 300)
    seen = Image.fromarray(image).resize((300, 1024), Image.Resampling.BILINEAR)
    other = np.array(seen.resize((256, 1024), Image.Resampling.BILINEAR))
    assert (other != resize(image, 1024, 256, "bilinear")).any()


def test_sam_and_the_encoders_see_it() -> None:
    tall = picture(1200, 300)
    assert (resize_longest(tall, 1024).numpy() == resize(tall, 1024, 256, "bilinear")).all()
    assert (View("squash", 336).image(tall) == resize(tall, 336, 336, "bicubic")).all()


def test_no_photograph_is_resized_elsewhere() -> None:
    """Pictures for people (pages, previews, figures) may go another way; models' input may not."""
    allowed = {"pipeline/masks/resize.py", "train/trainer/previews.py"}
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in ("pipeline/sam", "pipeline/encoders", "pipeline/masks",
                       "pipeline/precompute", "train/data", "train/trainer", "model")
        for path in (*(ROOT / folder).rglob("*.py"), ROOT / folder / "__init__.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("resize", "thumbnail", "Resampling")
    }  # fmt: skip
    assert found == allowed
