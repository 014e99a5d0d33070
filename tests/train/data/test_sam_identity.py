"""A cache of another SAM than the mask decoder knows is refused by identity, whatever its shape."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from svp.model.mask_head import MaskHead
from svp.pipeline.cache.plan import Plan
from svp.pipeline.errors import ConfigError, PlanMismatchError, WeightsError
from svp.pipeline.fetch.sam_specs import SAMS
from svp.pipeline.recipe import Recipe, SuperpixelConfig
from svp.pipeline.sam.build import random_sam, sam_spec
from svp.pipeline.sam.hub_names import from_original
from svp.pipeline.sam.huggingface import vision_sizes
from svp.pipeline.weights.digests import published
from svp.pipeline.weights.load import weights_digest
from svp.train.data.sam_identity import (
    doubt,
    identity,
    replace_decoder,
    require_decoder,
    require_same_sam,
)
from svp.train.factory import _mask_head
from svp.train.options import Places
from svp.train.recipe import TrainRecipe, parse_train_recipe
from svp.train.trainer.checkpoint import Checkpoint

FILE, OTHER = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"


def cache(model: str, weights: str = FILE, source: str | None = None) -> Plan:
    """A plan whose embeddings have the shape of every official SAM."""
    source = source or ("mobile_sam" if model == "vit_t" else "sam")
    pixels = SuperpixelConfig(source=source, model=model, weights=weights)  # type: ignore[arg-type]
    recipe = Recipe(superpixels=pixels, store_sam_embeddings=True)
    return Plan(recipe=recipe, images=(), grid=(4, 4), channels=8, sspe=(8, 8), sam=(256, 64, 64))


def recipe(**model: object) -> TrainRecipe:
    return parse_train_recipe({"model": model, "stages": [{"name": "one", "steps": 200}]}, "test")


@pytest.mark.parametrize("init", ["given", OTHER])
@pytest.mark.parametrize("model", ["vit_b", "vit_l", "vit_t", "tiny"])
def test_a_checkpoints_decoder_reads_vit_h_only(init: str, model: str) -> None:
    with pytest.raises(PlanMismatchError, match=rf"SAM {model}.*tuned on those of SAM vit_h"):
        require_decoder(recipe(init=init), cache(model))
    with pytest.raises(PlanMismatchError, match="--sam-model vit_h"):
        require_decoder(recipe(init=init), cache(model, source="slic"))
    require_decoder(recipe(init=init), cache("vit_h"))


def test_another_decoder_beside_a_checkpoint_decides() -> None:
    """Table C's MobileSAM row."""
    made = recipe(init=OTHER, sam_decoder=FILE)
    require_decoder(made, cache("vit_t", FILE))
    with pytest.raises(PlanMismatchError, match="--sam-decoder is sha256:aaaa"):
        require_decoder(made, cache("vit_t", OTHER))
    with pytest.raises(PlanMismatchError, match="--sam-decoder"):
        require_decoder(made, cache("vit_h", OTHER))


@pytest.mark.parametrize(
    ("decoder", "plan", "fits"),
    [
        ("random:0", cache("vit_b"), True),  # tuned on nothing
        ("random:0", cache("vit_b", "random:3"), True),
        (FILE, cache("vit_b", FILE), True),
        (FILE, cache("vit_b", OTHER), False),
        (FILE, cache("vit_b", "random:0"), False),
        ("shipped", cache("tiny", "shipped"), True),
        ("shipped", cache("tiny", "random:0"), False),
        ("shipped", cache("vit_b", FILE), False),
    ],
)
def test_a_decoder_of_its_own(decoder: str, plan: Plan, fits: bool) -> None:
    made = recipe(init="none", lm="random:0", sam_decoder=decoder)
    if fits:
        require_decoder(made, plan)
    else:
        with pytest.raises(PlanMismatchError, match="holds embeddings of SAM"):
            require_decoder(made, plan)


def test_the_shipped_model_reads_the_shipped_sam() -> None:
    require_decoder(recipe(init="shipped"), cache("tiny", "shipped"))
    for plan in (cache("tiny", "random:1"), cache("vit_h")):
        with pytest.raises(PlanMismatchError, match="shipped tiny one"):
            require_decoder(recipe(init="shipped"), plan)


def test_a_cache_without_embeddings_is_not_judged() -> None:
    plan = cache("vit_b")
    bare = replace(
        plan, sam=None, recipe=plan.recipe.model_copy(update={"store_sam_embeddings": False})
    )
    require_decoder(recipe(init=OTHER), bare)
    require_same_sam("vit_h sha256:x", bare, "it")
    assert identity(bare) == ""


def test_another_vit_h_than_the_published_is_said() -> None:
    own, made = cache("vit_h", FILE), recipe(init=OTHER)
    assert "not the published sam_vit_h_4b8939.pth" in doubt(made, own)
    known = cache("vit_h", published()["sam_vit_h_4b8939.pth"].digest)
    assert doubt(made, known) == ""
    assert doubt(recipe(init="shipped"), own) == ""
    assert doubt(recipe(init=OTHER, sam_decoder=FILE), own) == ""


def test_caches_of_one_run_are_of_one_sam() -> None:
    first = cache("vit_h", FILE)
    require_same_sam(identity(first), cache("vit_h", FILE, "slic"), "the run")
    require_same_sam("", first, "an older run, which recorded none")
    for other in (cache("vit_h", OTHER), cache("vit_l", FILE)):
        with pytest.raises(PlanMismatchError, match="the run r uses SAM vit_h sha256:aaa"):
            require_same_sam(identity(first), other, "the run r")


def test_a_decoder_of_another_width_cannot_be_put_in() -> None:
    class Model:
        def __init__(self, width: int) -> None:
            self.mask_head = type("Head", (), {"width": width})()

    sam = random_sam("tiny", 0)
    head = MaskHead(sam.prompt_encoder, sam.mask_decoder)
    model = Model(head.width)
    replace_decoder(model, head)  # type: ignore[arg-type]
    assert model.mask_head is head
    with pytest.raises(ConfigError, match="prompts of 64 numbers.*gives 256"):
        replace_decoder(Model(256), head)  # type: ignore[arg-type]


def test_a_run_records_its_sam(tmp_path: Path) -> None:
    from svp.train.trainer.checkpoint import State, save_checkpoint

    state = State(
        schema_version=1, step=1, stage=0, stage_step=1, recipe={}, data={}, cursor={}, world=1,
        micro_batch=1, sam=identity(cache("vit_l")),
    )  # fmt: skip
    save_checkpoint(tmp_path, state, {}, {})
    assert Checkpoint.open(next(tmp_path.iterdir())).state.sam == f"vit_l {FILE}"


def test_the_remedies_that_are_named_exist() -> None:
    """No decoder of the tiny SAM fits a checkpoint; random weights are no file."""
    with pytest.raises(PlanMismatchError) as tiny:
        require_decoder(recipe(init="given"), cache("tiny", "shipped"))
    assert "--sam-decoder" not in str(tiny.value)
    with pytest.raises(PlanMismatchError, match="--sam-decoder random:3$"):
        require_decoder(recipe(init="given"), cache("vit_b", "random:3"))
    require_decoder(recipe(init="given", sam_decoder="random:3"), cache("vit_b", "random:3"))
    with pytest.raises(PlanMismatchError, match="no file: give --sam-decoder shipped,"):
        require_decoder(
            recipe(init="none", lm="random:0", sam_decoder=FILE), cache("tiny", "shipped")
        )


NAMES = ("vit_b", "vit_l", "vit_h", "vit_t")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published ViTs with an encoder of a few thousand numbers, told apart by its width."""
    for name, width in (("vit_b", 8), ("vit_l", 16), ("vit_h", 24)):
        row = replace(SAMS[name], width=width, depth=1, heads=1, global_blocks=(0,))
        monkeypatch.setitem(SAMS, name, row)


def saved(folder: Path, name: str, seed: int = 0) -> tuple[Path, dict[str, torch.Tensor]]:
    """A file of SAM `name` in the published form, and its values."""
    state = random_sam(name, seed).state_dict()
    path = folder / f"my_{name}_{seed}.pth"
    torch.save(state, path)
    return path, state


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", NAMES)
def test_each_sam_reads_its_own_embeddings_only(name: str, tmp_path: Path) -> None:
    """Its decoder, a run and a cache beside know it by type and file, whatever the shape."""
    own = f"sha256:{weights_digest(saved(tmp_path, name)[0])}"
    tuned = recipe(init="none", lm="random:0", sam_decoder=own)
    require_decoder(tuned, cache(name, own))
    require_same_sam(f"{name} {own}", cache(name, own, "slic"), "the run r")
    others = {other: saved(tmp_path, other)[0] for other in NAMES if other != name}
    others[name] = saved(tmp_path, name, seed=1)[0]
    for other, path in others.items():
        theirs = f"sha256:{weights_digest(path)}"
        assert cache(other, theirs).sam == cache(name, own).sam
        said = f"holds embeddings of SAM {other} {theirs}, but --sam-decoder is {own}"
        with pytest.raises(PlanMismatchError, match=said):
            require_decoder(tuned, cache(other, theirs))
        said = f"holds embeddings of SAM {other} {theirs}, the run r uses SAM {name} {own}"
        with pytest.raises(PlanMismatchError, match=said):
            require_same_sam(f"{name} {own}", cache(other, theirs), "the run r")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_a_hub_folder_is_a_decoder_and_another_identity_than_the_file(
    name: str, tmp_path: Path
) -> None:
    """What a cache of package=transformers was made with can be trained on, and gives the values
    of segment-anything's file; one in the place of the other is refused with the reason."""
    file, state = saved(tmp_path, name)
    hub = tmp_path / "hub"
    hub.mkdir()
    save_file({n: t.contiguous().clone() for n, t in from_original(state).items()},
              hub / "model.safetensors")  # fmt: skip
    (hub / "config.json").write_text(json.dumps({"vision_config": vision_sizes(sam_spec(name))}))
    heads = []
    for path in (file, hub):
        weights = f"sha256:{weights_digest(path)}"
        made = cache(name, weights)
        pixels = made.recipe.superpixels.model_copy(update={"package": "transformers"})
        made = replace(made, recipe=made.recipe.model_copy(update={"superpixels": pixels}))
        tuned = recipe(init="none", lm="random:0", sam_decoder=weights)
        require_decoder(tuned, made)
        heads.append(_mask_head(tuned, made, Places(sam_decoder=path)).state_dict())
        other = f"sha256:{weights_digest(hub if path == file else file)}"
        with pytest.raises(PlanMismatchError, match="same values in another file, such as a hub"):
            require_decoder(recipe(init="none", lm="random:0", sam_decoder=other), made)
    torch.testing.assert_close(*heads, rtol=0, atol=0)
    for key, value in state.items():
        part, _, rest = key.partition(".")
        if part in ("prompt_encoder", "mask_decoder"):
            names = [n for n in heads[0] if n.endswith(rest)]
            assert any(torch.equal(heads[0][n], value) for n in names), key


@pytest.mark.usefixtures("small")
def test_a_hub_folder_where_segment_anything_is_asked_for_says_what_to_set(tmp_path: Path) -> None:
    _, state = saved(tmp_path, "vit_b")
    path = tmp_path / "hub.safetensors"
    save_file({n: t.contiguous().clone() for n, t in from_original(state).items()}, path)
    weights = f"sha256:{weights_digest(path)}"
    tuned = recipe(init="none", lm="random:0", sam_decoder=weights)
    with pytest.raises(WeightsError, match="layout of transformers.*set package=transformers"):
        _mask_head(tuned, cache("vit_b", weights), Places(sam_decoder=path))
