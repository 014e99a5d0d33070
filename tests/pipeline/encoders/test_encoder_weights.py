"""From a recipe to a loaded encoder: the right file, whole, or a clear refusal."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from svp.pipeline.encoders import build_encoder, dinov2
from svp.pipeline.encoders import registry as encoder_weights
from svp.pipeline.encoders.dinov2 import build_dinov2, expected_config
from svp.pipeline.errors import ConfigError, MissingError, WeightsError
from svp.pipeline.fetch.encoder_specs import ENCODERS
from svp.pipeline.recipe import FeatureConfig
from svp.pipeline.records import LocalPaths
from svp.pipeline.weights.load import weights_digest

IMAGE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`dinov2-small` made really small, with nothing to be found by accident."""
    narrow = replace(ENCODERS["dinov2-small"], hidden=32, blocks=2, heads=2)
    monkeypatch.setitem(ENCODERS, "dinov2-small", narrow)
    monkeypatch.setenv("SVP_WEIGHTS", str(tmp_path / "nowhere"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(encoder_weights, "hub_folder", no_hub)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return build_dinov2(32, 2, 2)


def no_hub(name: str, *, allow_download: bool) -> Path:
    raise MissingError("not in the hub cache")


def asked(path: Path, **options: Any) -> FeatureConfig:
    digest = f"sha256:{weights_digest(path)}"
    return FeatureConfig(encoder="dinov2-small", size=28, weights=digest, **options)


def encode(config: FeatureConfig, path: Path | None) -> Any:
    encoder = build_encoder(config, LocalPaths(images=Path(), encoder=path), "cpu")
    return encoder.encode([IMAGE]).patches


def test_folder_file_and_pth_give_the_same_features(small: Any, tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    folder = tmp_path / "folder"
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(expected_config("dinov2-small")))
    torch.save(state, tmp_path / "weights.pth")
    (tmp_path / "bare.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    paths = [folder, tmp_path / "weights.pth", tmp_path / "bare.safetensors"]
    first, *others = [encode(asked(path), path) for path in paths]
    assert first.shape == (1, 4, 32) and first.std() > 0.1
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_half_precision_files_are_read(small: Any, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_file({name: tensor.half() for name, tensor in small.state_dict().items()}, path)
    full = tmp_path / "full.safetensors"
    save_file(dict(small.state_dict()), full)
    half_patches, patches = encode(asked(path), path), encode(asked(full), full)
    assert half_patches.dtype == np.float32
    assert 0 < np.abs(half_patches - patches).max() < 0.01


def test_file_is_found_in_the_weights_folder(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kept" / "dinov2_vits14_reg4_pretrain.pth"
    path.parent.mkdir()
    torch.save(small.state_dict(), path)
    monkeypatch.setenv("SVP_WEIGHTS", str(path.parent))
    assert encode(asked(path), None).shape == (1, 4, 32)


def test_nothing_found_says_where_it_looked(small: Any, tmp_path: Path) -> None:
    config = FeatureConfig(encoder="dinov2-small", size=28, weights="sha256:" + "0" * 64)
    with pytest.raises(MissingError, match=f"looked for .*{tmp_path}/nowhere") as error:
        encode(config, None)
    assert "svp fetch dinov2-small" in str(error.value)


def test_another_digest_is_refused(small: Any, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(dict(small.state_dict()), path)
    config = FeatureConfig(encoder="dinov2-small", size=28, weights="sha256:" + "0" * 64)
    with pytest.raises(WeightsError, match=f"{weights_digest(path)}.*{'0' * 64}"):
        encode(config, path)


@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape", "nan"])
def test_partial_or_wrong_weights_are_refused(small: Any, tmp_path: Path, fault: str) -> None:
    state = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    if fault == "missing":
        del state["layernorm.bias"]
    if fault == "unexpected":
        state["classifier.weight"] = torch.zeros(3)
    if fault == "shape":
        state["layernorm.bias"] = torch.zeros(33)
    if fault == "nan":
        state["layernorm.bias"][3] = torch.nan
    path = tmp_path / "w.safetensors"
    save_file(state, path)
    name = "classifier.weight" if fault == "unexpected" else "layernorm.bias"
    with pytest.raises(WeightsError, match=name.replace(".", r"\.")):
        encode(asked(path), path)


def test_hostile_folder_is_refused_before_any_model_is_made(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dinov2, "build_dinov2", lambda *_: pytest.fail("built"))
    save_file(dict(small.state_dict()), tmp_path / "model.safetensors")
    hostile = expected_config("dinov2-small") | {"auto_map": {"AutoModel": "x.Y"}}
    (tmp_path / "config.json").write_text(json.dumps(hostile))
    with pytest.raises(WeightsError, match="auto_map"):
        encode(asked(tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("encoder", "weights"),
    [
        ("clip-tiny", "shipped"),
        ("dinov2-large", "shipped"),
        ("tiny", "auto"),
    ],
)
def test_weights_that_do_not_go_with_the_encoder(encoder: Any, weights: str) -> None:
    config = FeatureConfig(encoder=encoder, weights=weights, size=336)
    with pytest.raises(ConfigError, match="features.weights="):
        encode(config, None)


def test_random_weights_depend_on_the_seed_alone() -> None:
    def patches(seed: int) -> Any:
        return encode(FeatureConfig(weights=f"random:{seed}", size=32), None)

    torch.manual_seed(1)
    first, state = patches(3), torch.random.get_rng_state()
    torch.manual_seed(2)
    np.testing.assert_array_equal(patches(3), first)
    assert np.abs(patches(4) - first).max() > 0.1
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state)  # nobody else's numbers were used up


def test_shipped_tiny_weights() -> None:
    from svp.pipeline.encoders.tiny import WEIGHTS

    if not WEIGHTS.exists():
        pytest.skip("the tiny encoder is not trained yet")
    patches = encode(FeatureConfig(), None)
    assert patches.shape == (1, 256, 96) and patches.std() > 0.1
