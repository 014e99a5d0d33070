"""Encoders behind one call: shapes, normalisation, precision, and values that must not be kept."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from support.rounding import relative_error
from svp.pipeline.encoders import build_encoder
from svp.pipeline.encoders.encoder import Encoder, Features
from svp.pipeline.errors import ConfigError, ImageError
from svp.pipeline.recipe import FeatureConfig
from svp.pipeline.records import LocalPaths


def encoder(**options: Any) -> Encoder:
    chosen: dict[str, Any] = {"weights": "random:0", "size": 64, **options}
    config = FeatureConfig(**chosen)
    return build_encoder(config, LocalPaths(images=Path()), "cpu")


def photo(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth colours with some noise, as a photograph has."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 20
    waves = [np.sin(y * a + x * b) for a, b in rng.normal(size=(3, 2))]
    noisy = 128 + 90 * np.stack(waves, axis=-1) + rng.normal(scale=8, size=(height, width, 3))
    return noisy.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def tiny() -> Encoder:
    return encoder()


@pytest.mark.parametrize(("name", "patch", "dim"), [("tiny", 8, 96), ("clip-tiny", 8, 64)])
def test_shapes(name: str, patch: int, dim: int) -> None:
    one = encoder(encoder=name, cls=True, layers=(3, 1))
    side = 64 // patch
    assert one.grid == (side, side) and one.dim == dim
    got = one.encode([photo(40, 60), photo(64, 64), photo(200, 30)])
    assert got.patches.shape == (3, side * side, dim) and got.patches.dtype == np.float32
    assert got.cls is not None and got.cls.shape == (3, dim)
    assert got.layers is not None and got.layers.shape == (3, 2, side * side, dim)
    kept = got.stored(2)
    assert kept.layers is not None and kept.layers.dtype == np.float16 == kept.patches.dtype
    np.testing.assert_array_equal(kept.layers, got.layers[2].astype(np.float16))


def test_only_what_is_asked_for(tiny: Encoder) -> None:
    got = tiny.encode([photo(8, 8)])
    assert got.cls is None and got.layers is None
    assert got.stored(0).cls is None and got.stored(0).layers is None


def test_no_images_give_empty_arrays() -> None:
    one = encoder(cls=True, layers=(1,))
    none, some = one.encode([]), one.encode([photo(9, 9)])
    for name in ("patches", "cls", "layers"):
        empty, full = getattr(none, name), getattr(some, name)
        assert empty.shape == (0, *full.shape[1:]) and empty.dtype == full.dtype


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("tiny", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        (
            "clip-tiny",
            (0.48145466, 0.4578275, 0.40821073),
            (0.26862954, 0.26130258, 0.27577711),
        ),
    ],
)
def test_own_normalisation(name: str, mean: Any, std: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one, seen = encoder(encoder=name), []
    tokens = one._backbone.tokens

    def spy(pixels: torch.Tensor, layers: tuple[int, ...]) -> Any:
        seen.append(pixels.numpy().copy())
        return tokens(pixels, layers)

    monkeypatch.setattr(one._backbone, "tokens", spy)
    image = photo(50, 70)
    one.encode([image])
    want = (one.view.image(image) / 255.0 - np.array(mean)) / np.array(std)
    assert seen[0].shape == (1, 3, 64, 64)
    np.testing.assert_allclose(seen[0][0].transpose(1, 2, 0), want, atol=2e-6)


def test_an_image_that_went_through_the_view_gives_the_same(tiny: Encoder) -> None:
    image = photo(48, 80)
    once, twice = tiny.encode([image]), tiny.encode([tiny.view.image(image)])
    assert once.patches.tobytes() == twice.patches.tobytes()


def test_the_same_batch_gives_the_same_bytes(tiny: Encoder) -> None:
    batch = [photo(48, 80, seed) for seed in range(3)]
    first, again = tiny.encode(batch), tiny.encode(batch)
    assert first.patches.tobytes() == again.patches.tobytes()


def test_neighbours_in_the_batch_do_not_matter(tiny: Encoder) -> None:
    batch = [photo(48, 80, seed) for seed in range(3)]
    together = tiny.encode(batch).patches
    for i, image in enumerate(batch):
        np.testing.assert_allclose(tiny.encode([image]).patches[0], together[i], atol=1e-5)


def test_patches_are_in_raster_order(tiny: Encoder) -> None:
    left, top = photo(64, 64), photo(64, 64)
    left[:, :16] = 0
    top[:16] = 0
    plain = tiny.encode([photo(64, 64)]).patches[0]
    for image, axis in ((left, 1), (top, 0)):
        change = np.abs(tiny.encode([image]).patches[0] - plain).mean(axis=1).reshape(8, 8)
        inside = change[:, :2] if axis == 1 else change[:2]
        outside = change[:, 2:] if axis == 1 else change[2:]
        assert inside.min() > outside.max()


def test_lower_precision_drifts_little(tiny: Encoder) -> None:
    images = [photo(60, 60)]
    exact = tiny.encode(images).patches
    rough = encoder(dtype="bfloat16").encode(images).patches
    assert rough.dtype == np.float32
    drift = np.linalg.norm(rough - exact) / np.linalg.norm(exact)
    assert 0 < drift < 0.02


def test_int8_error_on_encoder_features(tiny: Encoder) -> None:
    patches = tiny.encode([photo(90, 120, seed) for seed in range(4)]).patches.astype(np.float16)
    assert relative_error(patches).mean() < 0.012  # cache spec 4.3: 0.0107


@pytest.mark.parametrize(
    ("value", "reason"),
    [(np.nan, "non-finite"), (np.inf, "non-finite"), (-np.inf, "non-finite"),
     (65505.0, "overflow"), (-1e9, "overflow")],
)  # fmt: skip
@pytest.mark.parametrize("name", ["patches", "cls", "layers"])
def test_values_that_float16_cannot_keep(name: str, value: float, reason: str) -> None:
    arrays = {
        "patches": np.zeros((2, 4, 8), np.float32),
        "cls": np.zeros((2, 8), np.float32),
        "layers": np.zeros((2, 3, 4, 8), np.float32),
    }
    arrays[name][1].flat[-1] = value
    features = Features(**arrays)
    features.stored(0)  # the other image of the batch is not touched
    with pytest.raises(ImageError, match=name) as error:
        features.stored(1)
    assert error.value.reason == reason


def test_the_largest_float16_is_kept() -> None:
    features = Features(np.full((1, 1, 2), 65504, np.float32))
    assert np.isfinite(features.stored(0).patches).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 60}, "features.size=60: need a multiple of the patch, 8"),
        ({"layers": (0,)}, r"features.layers=0: allowed are 1\.\.6"),
        ({"layers": (1, 7)}, r"features.layers=7: allowed are 1\.\.6"),
    ],
)
def test_options_that_the_model_does_not_have(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        encoder(**options)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dinov2-large", "clip-large-336"])
def test_the_papers_encoders_give_24_by_24_by_1024(name: str) -> None:
    one = encoder(encoder=name, size=336)
    got = one.encode([photo(480, 640)])
    assert one.grid == (24, 24) and got.patches.shape == (1, 576, 1024)
    assert np.isfinite(got.stored(0).patches).all() and got.patches.std() > 0.1


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["tiny", "clip-tiny"])
def test_a_gpu_gives_what_the_cpu_gives_and_twice_the_same(name: str) -> None:
    config = FeatureConfig(encoder=name, weights="random:0", size=64, cls=True, layers=(1, 3))
    here, photos = LocalPaths(images=Path()), [photo(40, 60), photo(64, 64)]
    expected = build_encoder(config, here, "cpu").encode(photos)
    device = build_encoder(config, here, "cuda")
    found, again = device.encode(photos), device.encode(photos)
    for kind in ("patches", "cls", "layers"):
        theirs, ours = getattr(expected, kind), getattr(found, kind)
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max(), rtol=0)
        np.testing.assert_array_equal(ours, getattr(again, kind))
