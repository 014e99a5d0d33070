"""One state dict feeds segment-anything and transformers; both give the same masks."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from svp.pipeline.errors import ConfigError, WeightsError
from svp.pipeline.fetch.sam_specs import SAMS
from svp.pipeline.recipe import SuperpixelConfig
from svp.pipeline.records import LocalPaths
from svp.pipeline.sam import build_backend
from svp.pipeline.sam import huggingface as hf
from svp.pipeline.sam.build import build_sam
from svp.pipeline.sam.hub_names import from_original
from svp.pipeline.sam.segment_anything import SamPackage
from svp.pipeline.weights.key_report import check_keys, expected_of, load_into

SMALL = replace(SAMS["vit_b"], width=64, depth=2, heads=2, global_blocks=(1,), image_size=256)


def load(state: dict[str, torch.Tensor], attention: Any = "eager") -> Any:
    with torch.device("meta"):
        model = hf.build_model(SMALL, attention=attention)
    load_into(model, from_original(state), "small", "")
    return model


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_agrees_with_segment_anything(
    small_sam: Any, photo: NDArray[np.uint8], clicks: torch.Tensor, attention: str
) -> None:
    ours = SamPackage(small_sam)
    theirs = hf.HuggingFaceSam(load(small_sam.state_dict(), attention))
    assert theirs.image_size == ours.image_size == 256
    features, other = ours.embed([photo]), theirs.embed([photo])
    assert (features - other).abs().max() <= 1e-4
    logits, iou = ours.decode(features[0], clicks)
    other_logits, other_iou = theirs.decode(other[0], clicks)
    assert logits.shape == other_logits.shape
    assert (logits - other_logits).abs().max() <= 1e-4 * max(1.0, float(logits.abs().max()))
    assert (iou - other_iou).abs().max() <= 1e-4


def test_fast_batch_and_bfloat16(
    small_sam: Any, photo: NDArray[np.uint8], clicks: torch.Tensor
) -> None:
    model = load(small_sam.state_dict(), "sdpa")
    exact, half = hf.HuggingFaceSam(model), hf.HuggingFaceSam(model, mode="fast", dtype="bfloat16")
    features = half.embed([photo, photo])
    logits, _ = half.decode(features[1], clicks)
    expected, _ = exact.decode(exact.embed([photo])[0], clicks)
    assert logits.dtype == torch.float32
    assert (logits - expected).square().mean().sqrt() / expected.std() < 0.05


@pytest.mark.parametrize("model", ["vit_b", "vit_l", "vit_h"])
def test_official_state_dicts_map_onto_every_parameter(model: str) -> None:
    state = build_sam(model).state_dict()
    renamed = from_original(state)
    with torch.device("meta"):
        target = hf.build_model(SAMS[model])
    report = check_keys(renamed, expected_of(target))
    assert report.ok, report.details()
    assert len(renamed) == len(state) + 1  # the positional matrix is held twice
    again = from_original(renamed)  # a hub folder's names pass through
    assert all(again[name] is value for name, value in renamed.items())


def test_a_tied_matrix_may_be_stored_once(small_sam: Any) -> None:
    state = from_original(small_sam.state_dict())
    kept, dropped = "shared_image_embedding", "prompt_encoder.shared_embedding"
    del state[f"{dropped}.positional_embedding"]
    again = from_original(state)
    assert torch.equal(
        again[f"{kept}.positional_embedding"], again[f"{dropped}.positional_embedding"]
    )


def test_tiny_needs_the_other_package() -> None:
    config = SuperpixelConfig(package="transformers")
    with pytest.raises(ConfigError, match="set package=segment-anything"):
        build_backend(config, LocalPaths(Path()))


@pytest.mark.parametrize("extra", [{"auto_map": {"AutoModel": "x.py"}}, {"_attn_x_internal": "y"}])
def test_a_folder_that_could_run_code_is_refused(tmp_path: Path, extra: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    from svp.pipeline.weights.load import weights_digest

    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "sam", **extra}))
    config = SuperpixelConfig(
        model="vit_b", package="transformers", weights=f"sha256:{weights_digest(tmp_path)}"
    )
    with pytest.raises(WeightsError, match="refused"):
        build_backend(config, LocalPaths(Path(), sam=tmp_path))
