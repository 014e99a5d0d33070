"""MobileSAM on timm's TinyViT: strict load of the published layout, and no stale attention biases."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svp.pipeline.datasets.world2 import make_scene
from svp.pipeline.recipe import SuperpixelConfig
from svp.pipeline.records import LocalPaths
from svp.pipeline.sam import build_backend
from svp.pipeline.sam.load import load_sam
from svp.pipeline.sam.mobile_sam import build_mobile_sam, map_keys, published_names
from svp.pipeline.sam.segment_anything import SamPackage
from svp.pipeline.weights.key_report import load_into
from svp.pipeline.weights.load import sha256_file

KEYS = Path(__file__).parents[2] / "fixtures" / "keys" / "mobile_sam_vit_t.tsv"
Spread = float


def published_like(seed: int, biases: Spread = 1.0) -> dict[str, torch.Tensor]:
    """Random values in the published names and shapes (439 tensors)."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}
    for line in KEYS.read_text().splitlines():
        name, dtype, shape = line.split("\t")
        sizes = () if shape == "scalar" else tuple(map(int, shape.split("x")))
        value = torch.randn(sizes, generator=generator)
        if dtype == "int64":
            value = torch.ones(sizes)
        elif name.endswith("running_var"):
            value = 1 + value.abs()
        elif name.endswith("attention_biases"):
            value = value * biases
        elif value.ndim > 1:
            value = value / value[0].numel() ** 0.5
        state[name] = value.to(getattr(torch, dtype))
    return state


def load(sam: Any, state: dict[str, torch.Tensor]) -> None:
    mapped, unused = map_keys(state)
    report = load_into(sam, mapped, "mobile", "", unused=unused)
    assert str(report) == "435/435 tensors, 0 missing, 0 unexpected, 4 unused"


def test_stage_geometry_keeps_a_sixteenth_of_the_image() -> None:
    sam = build_mobile_sam(256)
    load(sam, published_like(0))
    with torch.no_grad():
        features = sam.image_encoder(torch.randn(1, 3, 256, 256))
    assert features.shape == (1, 256, 16, 16)  # stride 1 in the last merge; timm's own gives 8x8
    assert features.isfinite().all()


def test_biases_are_read_after_loading() -> None:
    """The published builder runs with the biases of the initialisation."""
    image = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(1))
    fresh, used = build_mobile_sam(256), build_mobile_sam(256)
    load(fresh, published_like(3))
    with torch.no_grad():
        used.image_encoder(image)  # fills timm's cache with the initial biases
        load(used, published_like(3))
        expected, got = fresh.image_encoder(image), used.image_encoder(image)
        load(used, published_like(3, biases=0.0))
        without = used.image_encoder(image)
    # Not bit for bit: some versions of torch round by where the memory lies.
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    assert (without - expected).abs().max() > 0.1, (
        "biases must matter for this test to mean anything"
    )


def test_from_a_recipe_and_a_pt_file(tmp_path: Path) -> None:
    path = tmp_path / "my_mobile.pt"
    torch.save({"model": published_like(4)}, path)
    config = SuperpixelConfig(
        source="mobile_sam", model="vit_t", weights=f"sha256:{sha256_file(path)}"
    )
    backend = build_backend(config, LocalPaths(Path(), sam=path))
    assert backend.image_size == 1024
    assert str(backend.report) == "435/435 tensors, 0 missing, 0 unexpected, 4 unused"


def test_our_names_are_published_again() -> None:
    state = published_like(0)
    mapped, unused = map_keys(state)
    again = published_names(mapped)
    assert again.keys() == state.keys() - set(unused)
    assert all(again[name].equal(state[name]) for name in again)


def test_the_tiny_one_has_the_tiny_sams_decoder_and_nearly_its_embedding() -> None:
    named = SuperpixelConfig(source="mobile_sam", model="tiny-mobile-world2")
    student, report = load_sam(named, LocalPaths(Path()))
    assert report is not None and report.ok and not report.unused
    teacher, _ = load_sam(SuperpixelConfig(model="tiny-world2"), LocalPaths(Path()))
    for part in ("prompt_encoder", "mask_decoder"):
        own = getattr(student, part).state_dict()
        for name, value in getattr(teacher, part).state_dict().items():
            assert own[name].equal(value), f"{part}.{name}"
    image = torch.from_numpy(make_scene(9000, 1, "testA").image).permute(2, 0, 1).float()[None]
    pixels = (image - teacher.pixel_mean) / teacher.pixel_std
    with torch.no_grad():
        wanted, got = teacher.image_encoder(pixels), student.image_encoder(pixels)
    assert got.shape == (1, 64, 16, 16)
    assert (got - wanted).square().mean() < 0.3 * wanted.var()


@pytest.mark.slow
def test_full_size_forward() -> None:
    sam = build_mobile_sam()
    load(sam, published_like(5))
    backend = SamPackage(sam)
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    features = backend.embed([image])
    assert features.shape == (1, 256, 64, 64)
    logits, iou = backend.decode(features[0], torch.tensor([[100.0, 200.0]]))
    assert logits.shape == (1, 3, 256, 256)
    assert iou.shape == (1, 3)
