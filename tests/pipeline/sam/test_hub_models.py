"""SAM 2.1, SAM 3's tracker, EdgeTAM and SAM-HQ: hub folders load strictly, masks are transformers'."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.torch import save_file

from svp.cli import main
from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.errors import ConfigError, WeightsError
from svp.pipeline.fetch.sam_specs import SAMS
from svp.pipeline.recipe import SuperpixelConfig
from svp.pipeline.records import LocalPaths
from svp.pipeline.sam import build_backend
from svp.pipeline.sam.build import random_sam
from svp.pipeline.sam.hub_models import DEFAULTS, HUB_SAMS, build_model
from svp.pipeline.sam.load import load_sam
from svp.pipeline.superpixels.point_grid import GridPrompter, embedded
from svp.pipeline.weights.load import weights_digest

from .conftest import lively

MAPS = [[32, 32], [16, 16], [8, 8]]
DECODER = {"mlp_dim": 64}
SIZES: dict[str, dict[str, Any]] = {
    "sam2": {
        "vision_config": {
            "model_type": "sam2_vision_model",
            "backbone_config": {
                "model_type": "sam2_hiera_det_model", "hidden_size": 16, "image_size": [128, 128],
                "blocks_per_stage": [1, 2, 2, 1], "embed_dim_per_stage": [16, 32, 64, 128],
                "num_attention_heads_per_stage": [1, 2, 4, 8], "num_attention_heads": 1,
                "window_size_per_stage": [8, 4, 8, 4], "global_attention_blocks": [4],
            },
            "backbone_channel_list": [128, 64, 32, 16], "backbone_feature_sizes": MAPS,
        },
        "prompt_encoder_config": {"image_size": 128}, "mask_decoder_config": DECODER,
    },
    "sam3": {
        "vision_config": {
            "model_type": "sam3_vision_model",
            "backbone_config": {
                "model_type": "sam3_vit_model", "hidden_size": 32, "intermediate_size": 64,
                "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 112,
                "pretrain_image_size": 56, "window_size": 4, "global_attn_indexes": [1],
            },
            "backbone_feature_sizes": MAPS,
        },
        "prompt_encoder_config": {"image_size": 112, "patch_size": 14},
        "mask_decoder_config": DECODER,
    },
    "edgetam": {
        "vision_config": DEFAULTS["edgetam"]["vision_config"] | {"backbone_feature_sizes": MAPS},
        "prompt_encoder_config": {"image_size": 128}, "mask_decoder_config": DECODER,
    },
    "sam_hq": {
        "vision_config": {
            "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 64,
            "image_size": 128, "global_attn_indexes": [1], "window_size": 4,
        },
        "prompt_encoder_config": {"image_size": 128},
        "mask_decoder_config": DECODER | {"vit_dim": 32},
    },
}  # fmt: skip
MEMORY = ("memory_temporal_positional_encoding", "object_pointer_proj.proj_in.weight")
Folder = tuple[str, Path, Any]


def in_the_file(kind: str, name: str) -> str:
    """A tensor's name in the published video checkpoint."""
    if kind != "sam3":
        return name
    if name.startswith("vision_encoder.backbone."):
        return f"detector_model.{name}"
    if name.startswith("vision_encoder.neck."):
        return name.replace("vision_encoder.neck", "tracker_neck")
    return f"tracker_model.{name}"


@pytest.fixture(params=HUB_SAMS)
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: Any) -> Folder:
    """(model, a folder in the hub's layout, transformers' own model of it)."""
    import transformers

    name = request.param
    if name == "edgetam":
        pytest.importorskip("timm")
    kind, sizes = HUB_SAMS[name], SIZES[name]
    torch.manual_seed(0)
    model = lively(build_model(kind, sizes), 1)
    state = {in_the_file(name, key): value for key, value in model.state_dict().items()}
    if name != "sam_hq":
        before = "tracker_model." if name == "sam3" else ""
        state |= {f"{before}{key}": torch.ones(2) for key in MEMORY}
    if name == "sam3":
        state["detector_model.detr_encoder.layers.0.weight"] = torch.ones(2)
    save_file({key: value.clone() for key, value in state.items()}, tmp_path / "model.safetensors")
    video = kind.types[0] if name in ("sam3", "sam_hq") else kind.types[1]
    config = {kind.within: sizes} if kind.within else sizes
    text = json.dumps({"model_type": video, **config})
    (tmp_path / "config.json").write_text(text)
    size = sizes["prompt_encoder_config"]["image_size"]
    monkeypatch.setitem(SAMS, name, replace(SAMS[name], image_size=size))
    own: Any = getattr(transformers, f"{kind.name}Model")(model.config).eval()
    own.load_state_dict(model.state_dict())
    return name, tmp_path, own


def recipe(name: str, path: Path, **fields: Any) -> SuperpixelConfig:
    weights = f"sha256:{weights_digest(path)}"
    return SuperpixelConfig(model=name, package="transformers", weights=weights, **fields)


def backend_of(name: str, path: Path) -> Any:
    return build_backend(recipe(name, path), LocalPaths(Path(), sam=path))


def test_masks_scores_and_embedding_are_those_of_its_own_forward(
    folder: Folder, photo: NDArray[np.uint8]
) -> None:
    name, path, own = folder
    backend = backend_of(name, path)
    extra = {"sam_hq": 0, "sam3": 3}.get(name, 2)
    assert str(backend.report).endswith(f"0 unexpected, {extra} unused" if extra else "unexpected")
    side = backend.image_size
    height, width = backend.frame(150, 200)
    assert (height, width) == ((96, 128) if name == "sam_hq" else (side, side))
    clicks = torch.rand(9, 2, generator=torch.Generator().manual_seed(2)).double() * 90
    features = backend.embed([photo])[0]
    logits, iou = backend.decode(features, clicks)
    pixels = torch.zeros(1, 3, side, side)
    from svp.pipeline.masks.resize import resize

    resized = torch.from_numpy(resize(photo, height, width, "bilinear")).permute(2, 0, 1)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (HUB_SAMS[name].mean, HUB_SAMS[name].std))
    pixels[0, :, :height, :width] = (resized - mean) / std
    with torch.no_grad():
        found = own(pixel_values=pixels, input_points=clicks.float()[None, :, None])
        embedding = own.get_image_embeddings(pixels)[0 if name == "sam_hq" else -1]
    scale = max(1.0, float(found.pred_masks.abs().max()))
    order = iou.sort(dim=1, descending=True).indices
    if name == "sam_hq":  # its forward sorts the masks by score, a backend has them by level
        rows = torch.arange(9)[:, None]
        logits, iou = logits[rows, order], iou[rows, order]
    assert (features[:256] - embedding[0]).abs().max() <= 1e-5 * max(1, embedding.abs().max())
    assert logits.shape == (9, 3, 32, 32)
    assert (logits - found.pred_masks[0]).abs().max() <= 1e-5 * scale
    assert (iou - found.iou_scores[0]).abs().max() <= 1e-5
    assert logits.std(dim=0).max() > 0  # the click matters


def test_levels_of_sam_hq_are_not_sorted_by_score(folder: Folder, photo: NDArray[np.uint8]) -> None:
    name, path, _ = folder
    if name != "sam_hq":
        pytest.skip("the others do not sort")
    backend = backend_of(name, path)
    clicks = torch.rand(9, 2, generator=torch.Generator().manual_seed(2)).double() * 90
    raw: list[torch.Tensor] = []
    head = backend.model.mask_decoder.iou_prediction_head
    head.register_forward_hook(lambda module, inputs, found: raw.append(found))
    _, iou = backend.decode(backend.embed([photo])[0], clicks)
    assert torch.equal(iou, raw[0][0, :, 1:])


def test_only_wanted_prompts_come_back(folder: Folder, photo: NDArray[np.uint8]) -> None:
    name, path, _ = folder
    backend = backend_of(name, path)
    features = backend.embed([photo])[0]
    clicks = torch.tensor([[10.0, 20.0], [60.0, 40.0], [30.0, 70.0]]).double()
    every, _ = backend.decode(features, clicks)
    some, iou = backend.decode(features, clicks, lambda scores: torch.tensor([True, False, True]))
    assert torch.equal(some, every[[0, 2]])
    assert iou.shape == (3, 3)


def test_the_grid_runs_and_stores_the_embedding_alone(
    folder: Folder, photo: NDArray[np.uint8]
) -> None:
    name, path, _ = folder
    backend = backend_of(name, path)
    found, stored = GridPrompter(backend).generate_batch([photo], return_embeddings=True)
    assert stored is not None
    assert stored[0].shape == SAMS[name].embedding
    assert np.array_equal(stored[0], embedded(backend, [photo])[0])
    assert (found[0].height, found[0].width) == photo.shape[:2]


def test_a_missing_tensor_and_an_unknown_one_are_refused(folder: Folder) -> None:
    from safetensors.torch import load_file

    name, path, _ = folder
    file = path / "model.safetensors"
    state = load_file(file)
    kept = in_the_file(name, "mask_decoder.iou_token.weight")
    save_file({k: v for k, v in state.items() if k != kept}, file)
    with pytest.raises(WeightsError, match="mask_decoder.iou_token.weight"):
        backend_of(name, path)
    save_file(state | {"vision_encoder.surprise": torch.ones(1)}, file)
    with pytest.raises(WeightsError, match="surprise"):
        backend_of(name, path)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "sam"},
        {"auto_map": {"AutoModel": "x.py"}},
        {"vision_config": {"model_type": "llama"}, "tracker_config": {"vision_config": {"model_type": "llama"}}},
    ],
)  # fmt: skip
def test_another_config_is_refused(folder: Folder, change: dict[str, Any]) -> None:
    name, path, _ = folder
    found = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(found | change))
    with pytest.raises(WeightsError):
        backend_of(name, path)


def test_the_package_and_a_folder_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="set package=transformers"):
        SuperpixelConfig(model="sam2", weights="random:0")
    file = tmp_path / "sam2.safetensors"
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(ConfigError, match="give its folder"):
        backend_of("sam2", file)


def test_only_a_random_mask_decoder_goes_with_these_embeddings(folder: Folder) -> None:
    name, path, _ = folder
    sam = random_sam(name, 0)
    assert sam.prompt_encoder.image_embedding_size == (8, 8)
    with pytest.raises(WeightsError, match="--sam-decoder random"):
        load_sam(recipe(name, path), LocalPaths(Path(), sam=path))


SMALL = (
    "model.shape={hidden: 32, intermediate: 64, layers: 1, heads: 2, kv_heads: 2}",
    "stages=[{name: both, steps: 1, warmup: 0, lora: true}]", "global_batch=1",
    "run={micro_batch: 1, preview: 0, log: 1}",
)  # fmt: skip


def test_over_its_cache_only_a_random_decoder_trains(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, path, _ = folder
    monkeypatch.chdir(path)
    write_scenes(Path("scenes"), images=2, seed=3, splits={"train": 2})
    data = ["--dataset", "scenes", "--split", "train"]
    invoke = CliRunner().invoke
    made = invoke(main, [
        "precompute", *data, "--points-per-side", "2", "--out", "cache",
        "--workers", "0", "--quiet", "--sam-model", name, "--sam-weights", str(path),
    ])  # fmt: skip
    assert made.exit_code == 0, made.output
    train = ["train", "--from-cache", "cache", "--device", "cpu", "--json"]
    small = ["--lm", "random:0", *(word for one in SMALL for word in ("--set", one))]
    for words in (
        ["--set", "model.warm_projector=false"],  # the shipped tiny model
        [*small, "--sam-decoder", str(path)],
    ):
        refused = invoke(main, [*train, *words])
        assert refused.exit_code == 2 and "--sam-decoder random" in refused.output, refused.output
    done = invoke(main, [*train, *small, "--sam-decoder", "random"])
    assert done.exit_code == 0, done.output
    last = json.loads(done.stdout)["last"]
    assert last["masks"] >= 1 and 0 < last["dice"] < 1
    asked = invoke(main, ["eval", "--from-cache", "cache", *data, "--no-bounds", "--json",
                          "--device", "cpu"])  # fmt: skip
    assert asked.exit_code == 0, asked.output
    assert 0 <= json.loads(asked.stdout)["splits"][0]["values"]["gIoU"]["value"] <= 1
