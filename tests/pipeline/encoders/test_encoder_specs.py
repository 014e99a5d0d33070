"""The table of encoders: what its rows say is what the models are, and one row adds an encoder."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import svp
from svp.pipeline.encoders import build_encoder
from svp.pipeline.encoders.registry import family
from svp.pipeline.errors import ConfigError
from svp.pipeline.fetch.encoder_specs import CLIP_MEAN, ENCODERS, HALF, IMAGENET_MEAN, ZERO
from svp.pipeline.precompute.cost_model import tflop
from svp.pipeline.precompute.options import Flags, resolve
from svp.pipeline.precompute.planner import feature_shape, sized_plan
from svp.pipeline.recipe import FeatureConfig, parse_recipe

MODULE = """
from svp.pipeline.encoders.backbone import Family
from svp.pipeline.encoders.clip import Clip, build_clip, fill_buffers

def family(spec, size):
    def build():
        return build_clip(spec.hidden, spec.blocks, spec.heads, spec.patch, size)
    return Family(build, Clip, {}, finish=fill_buffers)
"""


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_a_row_says_what_the_model_is(name: str) -> None:
    spec = ENCODERS[name]
    kind = family(FeatureConfig(encoder=name, size=spec.size))
    with torch.device("meta"):
        model = kind.build()
    backbone = kind.adapt(model)
    backbone.require_size(spec.size)
    assert (backbone.patch, backbone.dim, backbone.depth) == (spec.patch, spec.hidden, spec.blocks)
    assert kind.shape is not None and kind.shape(spec.size) == (spec.patch, spec.hidden)
    assert set(spec.packages) <= {"timm"}
    held = sum(p.numel() * 4 for p in model.parameters()) / 1e9
    assert held == pytest.approx(spec.gigabytes, rel=0.1, abs=0.003)


# The smallest of each family: what is checked depends on the family alone.
@pytest.mark.parametrize(
    "name",
    ["tiny", "dinov2-small", "dinov3-small", "pe-spatial-tiny", "siglip2-base-384", "c-radio-v4-h",
     "clip-tiny", "tiny-clip-world2"],
)  # fmt: skip
def test_prefix_and_work_of_a_row_are_those_of_a_forward_pass(name: str) -> None:
    spec = ENCODERS[name]
    kind = family(FeatureConfig(encoder=name, size=spec.size))
    with torch.device("meta"):
        model = kind.build()
        pixels = torch.zeros(1, 3, spec.size, spec.size)
        lengths: list[int] = []
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.register_forward_hook(lambda m, i, out: lengths.append(out.shape[1]))
        with FlopCounterMode(display=False) as counter:
            found = kind.adapt(model).tokens(pixels, ())
    patches = (spec.size // spec.patch) ** 2
    assert found.patches.shape == (1, patches, spec.hidden)
    assert lengths[0] == patches + spec.prefix
    assert (found.cls is not None) == spec.cls
    if not spec.stand_in:  # those have a stem of their own, and figures that are rounded up
        assert counter.get_total_flops() / 1e12 == pytest.approx(spec.tflop, rel=0.03)


@pytest.mark.parametrize("name", sorted(n for n, row in ENCODERS.items() if not row.stand_in))
def test_work_of_a_row_follows_from_its_sizes(name: str) -> None:
    """2 per multiply-add: projections, feed-forward, attention, patches. Found equal to the pass above."""
    row = ENCODERS[name]
    patches = (row.size // row.patch) ** 2
    tokens = patches + row.prefix
    linears = 4 * row.hidden**2 + (3 if row.swiglu else 2) * row.hidden * row.inner
    block = tokens * linears + 2 * tokens**2 * row.hidden
    work = 2 * (row.blocks * block + patches * 3 * row.patch**2 * row.hidden)
    assert work / 1e12 == pytest.approx(row.tflop, rel=0.02)


def test_the_documented_table_is_this_one() -> None:
    text = (Path(svp.__file__).parent / "docs" / "weights.md").read_text("utf-8")
    names = {IMAGENET_MEAN: "ImageNet", CLIP_MEAN: "CLIP", HALF: "0.5", ZERO: "in the model"}
    lines = [
        f"| `{row.name}` | {row.gigabytes * 250:,.0f} M | {row.hidden} | {row.patch} | {row.size} | "
        f"{row.prefix} | {names[row.mean]} | {row.tflop:g} | {row.licence} | "
        f"{'on request' if row.access else 'open'} |"
        for row in ENCODERS.values()
        if not row.stand_in
    ]
    assert "\n".join(lines) in text


def test_a_plan_is_made_without_a_model() -> None:
    code = """
import sys
from svp.pipeline.precompute.planner import feature_shape
from svp.pipeline.recipe import FeatureConfig
print(feature_shape(FeatureConfig(encoder="dinov2-large", size=336)), "torch" in sys.modules)
"""
    out = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert out == "((24, 24), 1024) False\n"
    with pytest.raises(ConfigError, match="features.size=340: need a multiple of the patch, 14"):
        feature_shape(FeatureConfig(encoder="dinov2-large", size=340))
    with pytest.raises(ConfigError, match="features.size=224: this CLIP model takes 336 only"):
        feature_shape(FeatureConfig(encoder="clip-large-336", size=224))


def test_the_table_needs_no_library() -> None:
    code = "import sys, svp.pipeline.fetch.encoder_specs; print(*sorted(sys.modules))"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"torch", "numpy", "pydantic", "transformers"} & set(loaded)
    ours = {name for name in loaded if name.startswith("svp.pipeline.")}
    assert ours == {
        "svp.pipeline.fetch",
        "svp.pipeline.fetch.encoder_specs",
        "svp.pipeline.fetch.published",
    }


def test_a_view_costs_what_its_patches_cost() -> None:
    """CLIP at 224 px has its own figure: it is not scaled down from 336 px once more."""
    for name, expected in {"clip-large": 0.162, "clip-large-336": 0.382, "tiny": 0.0005}.items():
        flags = Flags(encoder=name, encoder_weights="random", superpixels="slic")
        recipe, _ = resolve("tiny", None, flags, (), Path())
        assert tflop(sized_plan(recipe))["features"] == expected
    assert ENCODERS["dinov2-large"].view_tflop(168) == pytest.approx(0.386 / 4)


def test_one_row_and_one_module_add_an_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere_encoder.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    flags = Flags(encoder="elsewhere", encoder_weights="random:3", superpixels="slic")
    with pytest.raises(
        ConfigError, match="--encoder elsewhere: allowed are tiny, tiny-world2, dino"
    ):
        resolve("tiny", None, flags, (), tmp_path)
    row = replace(
        ENCODERS["clip-tiny"], name="elsewhere", module="elsewhere_encoder", hidden=32, size=64
    )
    monkeypatch.setitem(ENCODERS, "elsewhere", row)
    recipe, where = resolve("tiny", None, flags, (), tmp_path)
    assert (recipe.features.encoder, recipe.features.size) == ("elsewhere", 64)
    plan = sized_plan(recipe)
    assert (plan.grid, plan.channels) == ((8, 8), 32)
    assert tflop(plan)["features"] == row.tflop
    photo = np.zeros((40, 60, 3), np.uint8)
    found = build_encoder(recipe.features, where, "cpu").encode([photo])
    assert found.patches.shape == (1, 64, 32)


def test_an_unknown_encoder_is_told_with_the_known_ones() -> None:
    raw = json.loads('{"features": {"encoder": "resnet"}}')
    expected = ", ".join(repr(name) for name in list(ENCODERS)[:-1])
    with pytest.raises(
        ConfigError, match=f"features.encoder=resnet: Input should be {expected} or"
    ):
        parse_recipe(raw, "recipe")
