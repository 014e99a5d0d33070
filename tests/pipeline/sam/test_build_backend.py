"""From a recipe to a loaded backend: shipped, random and file weights, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from svp.pipeline.errors import ConfigError, MissingError, WeightsError
from svp.pipeline.recipe import SuperpixelConfig
from svp.pipeline.records import LocalPaths
from svp.pipeline.sam import build_backend
from svp.pipeline.sam.tiny import build_tiny_sam
from svp.pipeline.weights.load import sha256_file

NOWHERE = LocalPaths(Path())


def tiny_file(folder: Path) -> Path:
    path = folder / "tiny.safetensors"
    save_file(build_tiny_sam().state_dict(), path)
    return path


def test_random_weights_are_a_function_of_the_seed_alone() -> None:
    state = torch.random.get_rng_state()
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    outputs = [
        build_backend(SuperpixelConfig(weights=f"random:{seed}"), NOWHERE).embed([image])
        for seed in (1, 1, 2)
    ]
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert all(output.isfinite().all() for output in outputs)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("source", ["slic", "masks", "halves"])
def test_a_sam_stands_beside_superpixels_of_any_source(source: str) -> None:
    """`svp eval` asks its decoder, whatever cut the cache: a plug-in's name too."""
    made = SuperpixelConfig(source=source, made="" if source == "slic" else "1 abc")
    image = np.full((60, 90, 3), 90, np.uint8)
    found = build_backend(made, NOWHERE).embed([image])
    assert torch.equal(found, build_backend(SuperpixelConfig(), NOWHERE).embed([image]))


def test_weights_from_a_file_are_reported(tmp_path: Path) -> None:
    path = tiny_file(tmp_path)
    config = SuperpixelConfig(weights=f"sha256:{sha256_file(path)}")
    backend = build_backend(config, LocalPaths(Path(), sam=path))
    count = len(build_tiny_sam().state_dict())
    assert str(backend.report) == f"{count}/{count} tensors, 0 missing, 0 unexpected"


def test_another_file_than_the_recipe_names_both_digests(tmp_path: Path) -> None:
    path = tiny_file(tmp_path)
    wanted = "0" * 64
    with pytest.raises(WeightsError) as caught:
        build_backend(SuperpixelConfig(weights=f"sha256:{wanted}"), LocalPaths(Path(), sam=path))
    assert wanted in str(caught.value)
    assert sha256_file(path) in str(caught.value)


def test_missing_weights_say_where_they_were_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SVP_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    config = SuperpixelConfig(model="vit_h", weights=f"sha256:{'0' * 64}")
    with pytest.raises(MissingError, match="sam_vit_h_4b8939.pth"):
        build_backend(config, NOWHERE)
    with pytest.raises(MissingError, match="no such weight file"):
        build_backend(config, LocalPaths(Path(), sam=tmp_path / "gone.pth"))


@pytest.mark.parametrize(
    "fields",
    [
        {"weights": "auto"},
        {"model": "vit_b", "weights": "shipped"},
        {"source": "mobile_sam", "model": "vit_t", "package": "transformers"},
    ],
)
def test_wrong_recipes(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        build_backend(SuperpixelConfig(**fields), NOWHERE)


def test_a_partial_checkpoint_is_never_used(tmp_path: Path) -> None:
    state = build_tiny_sam().state_dict()
    del state["mask_decoder.iou_token.weight"]
    path = tmp_path / "partial.safetensors"
    save_file(state, path)
    config = SuperpixelConfig(weights=f"sha256:{sha256_file(path)}")
    with pytest.raises(WeightsError, match="1 missing.*mask_decoder.iou_token.weight"):
        build_backend(config, LocalPaths(Path(), sam=path))


def test_a_transformers_file_names_the_package(tmp_path: Path) -> None:
    path = tmp_path / "hub.safetensors"
    save_file({"vision_encoder.pos_embed": torch.zeros(1, 64, 64, 768)}, path)
    config = SuperpixelConfig(model="vit_b", weights=f"sha256:{sha256_file(path)}")
    with pytest.raises(WeightsError, match="set package=transformers"):
        build_backend(config, LocalPaths(Path(), sam=path))


@pytest.mark.slow
def test_official_vit_b_with_random_weights_at_full_size() -> None:
    """The official architecture end to end at 1024 px on a 4x4 grid of points."""
    config = SuperpixelConfig(model="vit_b", weights="random:0")
    backend = build_backend(config, NOWHERE)
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    features = backend.embed([image])
    assert features.shape == (1, 256, 64, 64)
    ticks = (torch.arange(4, dtype=torch.float64) + 0.5) / 4
    y, x = torch.meshgrid(ticks * 768, ticks * 1024, indexing="ij")
    points = torch.stack([x.flatten(), y.flatten()], dim=1)
    logits, iou = backend.decode(features[0], points)
    assert logits.shape == (16, 3, 256, 256)
    assert iou.shape == (16, 3)
    assert logits.isfinite().all()
    assert logits.std(dim=0).max() > 0  # the click matters
