"""The table of SAMs: what its rows say is what the models are, and one row adds a SAM."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from svp.pipeline.doctor.weight_search import needed_weights
from svp.pipeline.errors import ConfigError, WeightsError
from svp.pipeline.fetch.sam_specs import SAMS, USUAL_SAM
from svp.pipeline.precompute.cost_model import tflop
from svp.pipeline.precompute.options import Flags, resolve
from svp.pipeline.precompute.planner import sized_plan
from svp.pipeline.recipe import parse_recipe
from svp.pipeline.sam import build_backend
from svp.pipeline.sam.build import build_sam, check_type, detect_type, family, random_sam
from svp.pipeline.sam.hub_models import HUB_SAMS
from svp.pipeline.weights.locate import find_weights, how_to_get, weight_files

MODULE = """
from dataclasses import replace
from svp.pipeline.fetch.sam_specs import SAMS
from svp.pipeline.sam.build import Family
from svp.pipeline.sam.official import build_official

def family(spec):
    return Family(lambda: build_official(spec))
"""


@pytest.mark.parametrize("name", sorted(SAMS))
def test_a_row_says_what_the_model_is(name: str) -> None:
    spec = SAMS[name]
    with torch.device("meta"):
        sam = family(name).build()
    assert sam.image_encoder.img_size == spec.image_size
    assert (sam.prompt_encoder.embed_dim, *sam.prompt_encoder.image_embedding_size) == (
        spec.embedding
    )
    if name not in HUB_SAMS:  # of those only the mask head is built here
        held = sum(p.numel() * 4 for p in sam.parameters()) / 1e9
        assert held == pytest.approx(spec.gigabytes, rel=0.06, abs=0.003)
    if spec.width:
        blocks = sam.image_encoder.blocks
        assert (len(blocks), blocks[0].attn.num_heads) == (spec.depth, spec.heads)
        whole = tuple(i for i, block in enumerate(blocks) if block.window_size == 0)
        assert whole == (spec.global_blocks or tuple(range(spec.depth)))
        one = {"tiny-world2": "tiny"}  # rows of one shape: the first
        assert detect_type(sam.state_dict()) == one.get(name, name)


@pytest.mark.parametrize("name", ["vit_b"])
def test_the_official_builder_gives_the_same_weights(name: str) -> None:
    """Also in the order of initialisation: `random:<seed>` is the official model at that seed."""
    from segment_anything import sam_model_registry

    torch.manual_seed(3)
    published = sam_model_registry[name]().state_dict()
    ours = random_sam(name, 3).state_dict()
    assert list(ours) == list(published)
    assert all(torch.equal(ours[key], value) for key, value in published.items())


def test_the_table_needs_no_library() -> None:
    code = "import sys, svp.pipeline.fetch.sam_specs; print(*sorted(sys.modules))"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"torch", "numpy", "pydantic", "segment_anything"} & set(loaded)
    ours = {name for name in loaded if name.startswith("svp.pipeline.")}
    assert ours == {
        "svp.pipeline.fetch",
        "svp.pipeline.fetch.published",
        "svp.pipeline.fetch.sam_specs",
    }


def test_sources_name_rows_of_their_own() -> None:
    assert {SAMS[name].source for name in SAMS} == set(USUAL_SAM)
    assert all(SAMS[name].source == source for source, name in USUAL_SAM.items())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Flags(sam_model="vit_t"), ("mobile_sam", "vit_t")),
        (Flags(superpixels="mobile_sam"), ("mobile_sam", "vit_t")),
        (Flags(superpixels="mobile_sam", sam_model="vit_b"), ("sam", "vit_b")),
        (Flags(superpixels="slic", sam_model="vit_t", store_sam_embeddings=True),
         ("slic", "vit_t")),
        (Flags(superpixels="slic", store_sam_embeddings=True), ("slic", "tiny")),
    ],
)  # fmt: skip
def test_source_and_model_follow_each_other(given: Flags, expected: tuple[str, str]) -> None:
    given = replace(given, sam_weights="random")
    recipe, _ = resolve("tiny", None, given, (), Path())
    assert (recipe.superpixels.source, recipe.superpixels.model) == expected


def test_a_source_that_does_not_go_with_its_model_says_what_does() -> None:
    raw = {"superpixels": {"source": "mobile_sam", "model": "vit_h"}}
    with pytest.raises(ConfigError, match="model=vit_h: set source=sam, or model=vit_t"):
        parse_recipe(raw, "recipe")


def test_two_rows_of_one_shape_are_the_same_to_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A SAM that was tuned on other data has its own row and the shapes of a published one."""
    row = replace(SAMS["tiny"], name="medsam", files=("medsam.pth",), remote=None, shipped="")
    monkeypatch.setitem(SAMS, "medsam", row)
    state = random_sam("medsam", 0).state_dict()
    check_type(state, "medsam", "medsam.pth")
    with pytest.raises(WeightsError, match="holds SAM tiny, the recipe says vit_b"):
        check_type(state, "vit_b", "medsam.pth")
    remedy = how_to_get("medsam", "--sam-weights")
    assert "svp fetch" not in remedy and "Give them with --sam-weights PATH" in remedy
    assert "`svp fetch vit_b`" in how_to_get("vit_b", "--sam-weights")


def test_a_checkpoint_says_which_row_it_is(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    save_file(build_sam("tiny").state_dict(), path)
    flags = Flags(sam_weights=str(path), superpixels="sam")
    recipe, where = resolve("paper", None, replace(flags, encoder_weights="random"), (), tmp_path)
    assert (recipe.superpixels.model, where.sam) == ("tiny", path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(
        WeightsError,
        match="none of tiny, tiny-world2, vit_b, vit_l, vit_h, vit_t, tiny-mobile-world2, sam2, .* by its",
    ):
        resolve("tiny", None, flags, (), tmp_path)


@pytest.mark.parametrize("module", [".official", "elsewhere_sam"])
def test_one_row_adds_a_sam(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A size of the published layout is a row; another layout a row and a module."""
    (tmp_path / "elsewhere_sam.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SVP_WEIGHTS", str(tmp_path))
    flags = Flags(sam_model="vit_s", sam_weights="random:3", superpixels="sam")
    with pytest.raises(
        ConfigError, match="superpixels.model=vit_s: Input should be 'tiny', 'tiny-w"
    ):
        resolve("tiny", None, flags, (), tmp_path)
    row = replace(
        SAMS["vit_b"], name="vit_s", module=module, width=48, depth=2, heads=2,
        global_blocks=(1,), image_size=256, tflop=0.01, files=("sam_vit_s.safetensors",),
        remote=None,
    )  # fmt: skip
    monkeypatch.setitem(SAMS, "vit_s", row)
    recipe, where = resolve("tiny", None, flags, ("store_sam_embeddings=true",), tmp_path)
    plan = sized_plan(recipe)
    assert plan.sam == (256, 16, 16)
    assert tflop(plan)["sam encoder"] == row.tflop
    backend = build_backend(recipe.superpixels, where)
    photo = np.zeros((40, 60, 3), np.uint8)
    assert backend.embed([photo]).shape == (1, *row.embedding)

    assert weight_files("vit_s") == ("sam_vit_s.safetensors",)
    path = tmp_path / "sam_vit_s.safetensors"
    save_file(random_sam("vit_s", 3).state_dict(), path)
    assert find_weights("vit_s", "--sam-weights") == path
    flags = Flags(sam_weights=str(path), superpixels="sam")
    recipe, where = resolve("tiny", None, flags, (), tmp_path)
    assert recipe.superpixels.model == "vit_s", "told by its tensors"
    loaded = build_backend(recipe.superpixels, where)
    assert torch.equal(loaded.embed([photo]), backend.embed([photo]))
    need = needed_weights(recipe, where)[0]
    assert need.found and "sam_vit_s.safetensors" in need.detail
