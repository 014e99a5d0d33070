"""DINOv3, PE-Spatial, SigLIP 2, C-RADIOv4: the hub's folders give their own library's features, strictly."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from support.hub_encoders import NAMES, SIZE, narrow, original_pe, reference, write_folder
from svp.pipeline.encoders import build_encoder, registry
from svp.pipeline.encoders.encoder import Encoder
from svp.pipeline.errors import ConfigError, MissingError, WeightsError
from svp.pipeline.fetch.catalogue import find_remote
from svp.pipeline.fetch.encoder_specs import ENCODERS
from svp.pipeline.recipe import FeatureConfig
from svp.pipeline.records import LocalPaths
from svp.pipeline.weights.load import weights_digest

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def loaded(name: str, weights: Path, **fields: Any) -> Encoder:
    given = {"size": ENCODERS[name].size, "layers": (1,), "cls": ENCODERS[name].cls} | fields
    config = FeatureConfig(encoder=name, weights=f"sha256:{weights_digest(weights)}", **given)
    return build_encoder(config, LocalPaths(images=Path(), encoder=weights), "cpu")


@pytest.mark.parametrize("name", NAMES)
def test_features_are_those_of_its_own_library(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library reads the same folder; a photograph of 40 x 60 is seen through the view."""
    spec = narrow(monkeypatch, name)
    write_folder(spec, tmp_path)
    encoder = loaded(name, tmp_path)
    found = encoder.encode([IMAGE])
    seen = encoder.view.tensor(IMAGE, torch.device("cpu")).permute(2, 0, 1)[None].float() / 255
    mean, std = (torch.tensor(c).view(1, 3, 1, 1) for c in (spec.mean, spec.std))
    patches, whole, early = reference(spec, tmp_path, (seen - mean) / std)
    assert found.layers is not None and patches.shape == (1, (SIZE // 16) ** 2, 32)
    np.testing.assert_allclose(found.patches, patches.numpy(), atol=1e-5)
    np.testing.assert_allclose(found.layers[:, 0], early.numpy(), atol=1e-5)
    assert (found.cls is None) == (whole is None)
    if whole is not None:
        np.testing.assert_allclose(found.cls, whole.numpy(), atol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_near_float32(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(narrow(monkeypatch, name), tmp_path)
    want = loaded(name, tmp_path).encode([IMAGE])
    got = loaded(name, tmp_path, dtype="bfloat16").encode([IMAGE])
    for one, other in ((want.patches, got.patches), (want.layers, got.layers)):
        assert one is not None and other is not None
        error = np.square(other - one).mean() ** 0.5
        assert 0 < error < 0.05 * one.std()


@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_too_few_or_too_many_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = narrow(monkeypatch, name)
    write_folder(spec, tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    blocks = [n for n in state if ".1." in n and n.endswith("norm2.weight") and "text" not in n]
    save_file({n: t for n, t in state.items() if n not in blocks}, path)
    with pytest.raises(WeightsError, match=r"1 missing, 0 unexpected.*norm2\.weight"):
        loaded(name, tmp_path)
    beside = blocks[0].replace(".1.", ".7.")
    save_file(state | {beside: torch.ones(32)}, path)
    with pytest.raises(WeightsError, match=r"0 missing, 1 unexpected.*7\.(layer_)?norm2"):
        loaded(name, tmp_path)


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("dinov3-small", {"num_register_tokens": 0}, "num_register_tokens is 0, this encoder has 4"),
        ("dinov3-7b", {"use_gated_mlp": False}, "use_gated_mlp is False, this encoder has True"),
        ("pe-spatial-base", {"architecture": "vit_pe_core_base_patch16_224"}, "this encoder has 'vit_pe_sp"),
        ("siglip2-so400m-384", {"vision_config": {"image_size": 224}}, "image_size is 224"),
        ("c-radio-v4-so400m", {"num_registers": 5}, "num_registers is 5, this encoder has 7"),
    ],
)  # fmt: skip
def test_another_model_is_refused_by_its_configuration(
    name: str, fields: dict[str, object], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = narrow(monkeypatch, name)
    write_folder(spec, tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(WeightsError, match=said):
        loaded(name, tmp_path)


def test_code_that_a_folder_names_is_refused_but_where_it_is_never_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C-RADIOv4's folder has `auto_map`; transformers has its class, so nothing reads it."""
    spec = narrow(monkeypatch, "c-radio-v4-h")
    write_folder(spec, tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    assert "auto_map" in config
    path.write_text(json.dumps(config | {"trust_remote_code": True}))
    with pytest.raises(WeightsError, match="trust_remote_code can make a library run code"):
        loaded("c-radio-v4-h", tmp_path)


@pytest.mark.parametrize("name", ["pe-spatial-base", "pe-spatial-giant"])
def test_the_original_file_of_pe_spatial_gives_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = narrow(monkeypatch, name)
    write_folder(spec, tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    original = original_pe(state)
    assert "transformer.resblocks.1.attn.in_proj_weight" in original
    torch.save(original, tmp_path / "original.pt")
    want, got = (
        loaded(name, tmp_path / file).encode([IMAGE]).patches for file in ("", "original.pt")
    )
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", ["dinov3-small", "pe-spatial-base", "c-radio-v4-so400m"])
def test_other_multiples_of_the_patch_are_taken(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = narrow(monkeypatch, name)
    write_folder(spec, tmp_path)
    assert loaded(name, tmp_path, size=96).encode([IMAGE]).patches.shape == (1, 36, 32)
    with pytest.raises(ConfigError, match="size=90: need a multiple of the patch, 16"):
        loaded(name, tmp_path, size=90)


def test_siglip_takes_the_size_it_was_trained_for(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow(monkeypatch, "siglip2-base-384")
    config = FeatureConfig(encoder="siglip2-base-384", size=80, weights="random:0")
    with pytest.raises(ConfigError, match="size=80: this SigLIP 2 model takes 64 only"):
        build_encoder(config, LocalPaths(Path()), "cpu")


def test_a_naflex_variant_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(narrow(monkeypatch, "siglip2-base-384"), tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    name = "vision_model.embeddings.patch_embedding.weight"
    save_file(state | {name: state[name].flatten(1)}, path)
    with pytest.raises(WeightsError, match="NaFlex variant.* take a variant of one size"):
        loaded("siglip2-base-384", tmp_path)


def test_no_cls_where_there_is_none() -> None:
    with pytest.raises(ValueError, match="cls=true: pe-spatial-giant has no CLS token"):
        FeatureConfig(encoder="pe-spatial-giant", size=448, cls=True)


@pytest.mark.parametrize("download", [False, True])
def test_missing_weights_say_how_access_is_granted(
    download: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(name: str, files: object, *, allow_download: bool = False) -> Path:
        raise MissingError("401")

    monkeypatch.setenv("SVP_WEIGHTS", str(tmp_path / "nowhere"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "hub_folder", refused)
    monkeypatch.setattr(registry, "search_weights", lambda encoder: None)
    config = FeatureConfig(encoder="dinov3-large", size=384, weights=f"sha256:{'0' * 64}")
    with pytest.raises(MissingError, match="accept the DINOv3 License at https://huggingface.co"):
        build_encoder(config, LocalPaths(images=Path()), "cpu", allow_download=download)


def test_what_fetch_brings_and_what_it_does_not() -> None:
    for name in ("pe-spatial-large", "siglip2-so400m-512", "c-radio-v4-h"):
        files = find_remote(name).files
        folder = ENCODERS[name].files[0]
        assert [file.path for file in files] == [
            f"{folder}/config.json",
            f"{folder}/model.safetensors",
        ]
        assert all(ENCODERS[name].hub in file.url for file in files)
    with pytest.raises(
        ConfigError, match="`hf download facebook/dinov3-vit7b16.*accept the DINOv3"
    ):
        find_remote("dinov3-7b")
