"""Weights as training scripts save them: wrapped names, nested state dicts, other precisions."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from svp.pipeline.errors import WeightsError
from svp.pipeline.precompute.options import Flags, resolve
from svp.pipeline.recipe import FeatureConfig, SuperpixelConfig
from svp.pipeline.records import LocalPaths
from svp.pipeline.sam.build import build_sam
from svp.pipeline.sam.load import load_sam
from svp.pipeline.sam.tiny import WEIGHTS
from svp.pipeline.weights.load import load_state_dict, weights_digest
from svp.pipeline.weights.tensor_names import plain_names

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def sam() -> State:
    return {name: tensor.float() for name, tensor in load_state_dict(WEIGHTS).items()}


def under(prefix: str) -> Callable[[State], object]:
    return lambda state: {f"{prefix}{name}": tensor for name, tensor in state.items()}


def half(state: State) -> State:
    return {name: tensor.half() for name, tensor in state.items()}


def inside(state: State) -> State:
    """torch.compile of the encoder, DDP around the decoder."""
    names = {"image_encoder.": "image_encoder._orig_mod.", "mask_decoder.": "mask_decoder.module."}
    return {
        next((n.replace(a, b, 1) for a, b in names.items() if n.startswith(a)), n): t
        for n, t in state.items()
    }


OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-3}]}
WRAPPED: dict[str, Callable[[State], object]] = {
    "ddp": under("module."),
    "lightning": lambda s: {"state_dict": under("model.")(s), "epoch": 1},
    "compiled": under("_orig_mod."),
    "compiled under ddp": under("module._orig_mod."),
    "attribute": under("sam."),
    "two attributes": under("net.sam_model."),
    "attribute under ddp": under("module.sam."),
    "ddp in attribute": under("model.module."),
    "parts": inside,
    "model_state_dict": lambda s: {"model_state_dict": s, "optimizer_state_dict": OPTIMIZER},
    "net": lambda s: {"net": s, "step": 3},
    "any name": lambda s: {"my_finetuned_sam": s, "optimizer": OPTIMIZER, "step": 3},
    "nested": lambda s: {"checkpoint": {"model": {"state_dict": under("module.")(s)}}, "epoch": 1},
    "float16": half,
    "bfloat16": lambda s: {n: t.bfloat16() for n, t in s.items()},
    "float64": lambda s: {n: t.double() for n, t in s.items()},
    "all at once": lambda s: {"net": under("module.sam.")(half(s)), "epoch": 1},
}


@pytest.mark.parametrize("kind", sorted(WRAPPED))
def test_a_fine_tuned_sam_is_loaded(sam: State, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mine.pth"
    torch.save(WRAPPED[kind](sam), path)
    config = SuperpixelConfig(model="tiny", weights=f"sha256:{weights_digest(path)}")
    found, report = load_sam(config, LocalPaths(images=tmp_path, sam=path))
    assert report is not None and report.ok
    loaded = found.state_dict()
    for name, tensor in sam.items():
        rough = {"float16": torch.float16, "bfloat16": torch.bfloat16, "all at once": torch.float16}
        assert torch.equal(loaded[name], tensor.to(rough.get(kind, torch.float32)).float()), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: under("sam.")(s) | {"head.weight": torch.ones(2)},
         r"is under sam\., beside 1 other tensor \(head.weight, ...\): .*whole\.sam\.state_dict"),
        (lambda s: under("student.")(s) | under("teacher.")(s),
         r"it contains several models, under student\., teacher\."),
        (lambda s: {**s, **under("module.")(s)}, "is there twice, with and without"),
        (lambda s: {"a": s, "b": s}, "it contains several state dicts, under a, b"),
        (lambda s: {"epoch": 3, "model": s, "ema": s}, "several state dicts, under model, ema"),
        (lambda s: {"student": {"x": s}, "teacher": s}, "several .* under student, teacher"),
        (lambda s: {n: t for n, t in s.items() if "mask_decoder" in n}, "state dict of a whole SAM"),
        (lambda s: {n: t.to(torch.int8) for n, t in s.items()}, "int8, needs"),
        (lambda s: {"optimizer": OPTIMIZER}, "state dict maps names to dense"),
    ],
)  # fmt: skip
def test_what_is_not_one_whole_model_is_told(
    sam: State, tmp_path: Path, change: Callable[[State], object], message: str
) -> None:
    path = tmp_path / "mine.pth"
    torch.save(change(sam), path)
    config = SuperpixelConfig(model="tiny", weights=f"sha256:{weights_digest(path)}")
    with pytest.raises(WeightsError, match=message):
        load_sam(config, LocalPaths(images=tmp_path, sam=path))


def test_the_type_of_a_wrapped_sam_is_seen(tmp_path: Path) -> None:
    """--sam-weights without --sam-model, MobileSAM in half precision: its counters too."""
    state = build_sam("vit_t").state_dict()
    from svp.pipeline.sam.mobile_sam import map_keys

    path = tmp_path / "own_mobile.pt"
    names = _published_names()
    back = {new: old for old in names for new in map_keys({old: torch.ones(1)})[0]}
    unused = {n: torch.ones(1) for n in names if n not in back.values()}
    saved = {back[n]: t.half() for n, t in state.items() if n in back} | unused
    torch.save({"model": {f"module.{n}": t for n, t in saved.items()}}, path)
    recipe, where = resolve("paper", None, Flags(sam_weights=str(path), encoder_weights="random"),
                            (), tmp_path)  # fmt: skip
    assert recipe.superpixels.model == "vit_t"
    found, report = load_sam(recipe.superpixels, where)
    assert report is not None and report.ok
    assert found.image_encoder.vit.patch_embed.conv1.bn.num_batches_tracked.dtype == torch.int64


def _published_names() -> list[str]:
    keys = Path(__file__).parents[2] / "fixtures" / "keys" / "mobile_sam_vit_t.tsv"
    return [line.split("\t")[0] for line in keys.read_text().splitlines()]


def test_encoders_too(tmp_path: Path) -> None:
    from svp.pipeline.encoders.registry import family, load_backbone

    model = family(FeatureConfig(encoder="dinov2-small", weights="random:0")).build()
    state = model.state_dict()
    path = tmp_path / "dino.pth"
    wrapped = {f"module.model.backbone.{n}": t.half() for n, t in state.items()}
    torch.save({"epoch": 3, "encoder": wrapped}, path)
    config = FeatureConfig(encoder="dinov2-small", weights=f"sha256:{weights_digest(path)}")
    found = load_backbone(config, path, False).model.state_dict()
    name = "embeddings.position_embeddings"
    assert torch.equal(found[name], state[name].half().float())


def test_clips_text_part_is_no_other_model() -> None:
    names = ("vision_model.embeddings.class_embedding", "text_model.x", "logit_scale")
    state = {f"module.{name}": torch.ones(1) for name in names}
    anchors = ("vision_model.embeddings.class_embedding", "embeddings.class_embedding")
    assert tuple(plain_names(state, anchors, "clip")) == names
