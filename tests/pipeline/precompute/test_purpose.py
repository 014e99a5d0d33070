"""A cache is made for a projector, says what it will be good for, and is refused with a command."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from svp.model.projectors import PROJECTORS
from svp.pipeline.cache.places import DataPlaces, write_places
from svp.pipeline.errors import ConfigError
from svp.pipeline.io.yaml_files import override_of
from svp.pipeline.plugins import plugins
from svp.pipeline.precompute import launch
from svp.pipeline.precompute.options import Flags, resolve
from svp.pipeline.precompute.planner import sized_plan
from svp.pipeline.precompute.purpose import (
    LOOK,
    NEEDS,
    ON_MEANS,
    announce,
    command_for,
    four_layers,
    lacks,
    next_command,
    require_means,
    stores,
)
from svp.pipeline.recipe import FeatureConfig, Recipe


def recipe(
    projector: str = "svp", *overrides: str, purpose: str = "train", **flags: object
) -> Recipe:
    found = stores(purpose, projector)  # type: ignore[arg-type]
    return resolve(None, None, Flags(**flags), overrides, Path(), found)[0]  # type: ignore[arg-type]


def test_the_needs_are_those_of_the_classes() -> None:
    assert {name: kind.needs for name, kind in PROJECTORS.items()} == NEEDS


@pytest.mark.parametrize("name", sorted(NEEDS))
def test_means_serve_what_the_classes_say(name: str) -> None:
    options: dict[str, Any] = {}
    assert PROJECTORS[name].reads_patches(options)
    if name in ON_MEANS:
        override_of(ON_MEANS[name]).apply(options)
    assert PROJECTORS[name].reads_patches(options) == (name not in ON_MEANS)


@pytest.mark.parametrize("name", sorted(NEEDS))
def test_a_cache_made_for_a_projector_lacks_nothing_of_it(name: str) -> None:
    assert lacks(recipe(name), PROJECTORS[name].needs) == []
    sized_plan(recipe(name))


def test_what_is_stored() -> None:
    plain = recipe()
    assert (plain.store_sam_embeddings, plain.features.cls, plain.features.layers) == (
        True,
        False,
        (),
    )
    assert recipe("pvtc").features.cls
    assert recipe("tokenpacker").features.layers == (3, 4, 5, 6)
    deep = recipe("tokenpacker", encoder="dinov2-large", encoder_weights="random")
    assert deep.features.layers == (12, 16, 22, 23)
    last = recipe("fusion", "features.encoder=dinov2-large", "features.size=336",
                  encoder_weights="random")  # fmt: skip
    assert last.features.layers == (21, 22, 23, 24)
    assert four_layers(12) == [6, 8, 11, 12]
    for look in (recipe("pvtc", purpose="look"), resolve(None, None, Flags(), (), Path(), LOOK)[0]):
        assert not look.store_sam_embeddings and not look.features.cls
    with pytest.raises(ConfigError, match="projector svpp: allowed are .*svp"):
        recipe("svpp")


def test_a_plug_ins_projector_gets_its_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(
        "from svp.model.projectors import PROJECTORS\n"
        "class Mine(PROJECTORS['mlp']):\n    needs = frozenset({'cls'})\n"
        "PROJECTORS['purpose_mine'] = Mine\n"
    )
    monkeypatch.setenv("SVP_PLUGIN", str(tmp_path / "mine.py"))
    try:
        assert recipe("purpose_mine").features.cls
    finally:
        PROJECTORS.pop("purpose_mine")


def test_a_thin_recipe_holds_means_and_says_so() -> None:
    thin = recipe(thin=True)
    assert (thin.features.stored, thin.store_sam_embeddings, thin.sam_stored) == (
        "mean",
        True,
        "int8",
    )
    assert recipe("fusion", thin=True).features.stored_layers == 4
    assert recipe(thin=True, sam_stored="float16").sam_stored == "float16"
    assert not recipe(thin=True, store_sam_embeddings=False).store_sam_embeddings
    assert recipe(purpose="look", thin=True) == recipe(thin=True, features="mean") == thin
    with pytest.raises(ConfigError, match="--thin stores no patch features, --features int8"):
        recipe(thin=True, features="int8")
    holds, trains = announce(thin)
    assert "the mean of each on tiny features (no patch features) and the SAM image" in holds
    assert trains == "it trains svp with ssa_variant=none alone: all others read patch features"
    assert (
        "svp with ssa_variant=none and fusion with svp.ssa"
        in announce(recipe("fusion", thin=True))[1]
    )
    thin_plan = sized_plan(thin)
    for name, thinly in (("svp", "--thin "), ("fusion", "--thin --projector fusion "),
                         ("mlp", "--projector mlp ")):  # fmt: skip
        assert command_for(thin_plan, name).endswith(f"--encoder tiny {thinly}--out caches/{name}")
    require_means(thin, "svp")
    require_means(recipe(), "mlp")
    with pytest.raises(ConfigError, match="--projector mlp reads patch features"):
        require_means(thin, "mlp")
    with pytest.raises(ConfigError, match="--projector tokenpacker reads patch features"):
        launch.price(launch.Request(dataset=None, split=None, out=None, projector="tokenpacker",
                                    flags=Flags(thin=True)), "a100", 10)  # fmt: skip
    # Whatever the cache is for: the command that is told at the end must be one that works.
    look = launch.Request(dataset=None, split=None, out=None, projector="mlp", purpose="look",
                          flags=Flags(thin=True))  # fmt: skip
    source = SimpleNamespace(
        sentences=(), image_root=Path(), generated=True, worlds={1}, name="scenes"
    )
    with pytest.raises(ConfigError, match="--projector mlp reads patch features"):
        launch.recipe_of(look, source)  # type: ignore[arg-type]


def test_what_is_said_outright_stays() -> None:
    assert not recipe(store_sam_embeddings=False).store_sam_embeddings
    assert not recipe("svp", "store_sam_embeddings=false").store_sam_embeddings
    assert recipe("tokenpacker", "features.layers=[1, 2, 3, 4]").features.layers == (1, 2, 3, 4)
    slic = recipe(superpixels="slic")
    assert slic.store_sam_embeddings and slic.superpixels.model == "tiny"


def test_what_a_cache_will_do_is_said() -> None:
    holds, trains, rest = announce(recipe())
    assert holds == ("the cache will hold superpixels, tiny features and the SAM image embedding")
    assert "svp" in trains.split(", ") and "pvtc" not in trains
    assert "pvtc (the CLS token)" in rest and "tokenpacker (four encoder layers)" in rest
    assert "--projector NAME" in rest
    _, look = announce(recipe(purpose="look"))
    assert "svp train cannot read it" in look and "--for train" in look


def test_the_next_command_can_be_pasted() -> None:
    usual = FeatureConfig(encoder="tiny", size=128)

    def after(made: Recipe, split: str = "train", **more: object) -> str:
        options = {"size": None, "projector": "svp", "usual": usual} | more
        return next_command(made, split, Path("my caches/x"), **options)  # type: ignore[arg-type]

    assert after(recipe()) == after(recipe(), "") == "svp train --from-cache 'my caches/x'"
    assert after(recipe("pvtc"), projector="pvtc", size="tiny") == (
        "svp train --size tiny --from-cache 'my caches/x' --projector pvtc"
    )
    assert after(recipe("svp", "features.size=64")) == (
        "svp train --from-cache 'my caches/x' --set model.vision.size=64"
    )
    assert after(recipe(), size="paper").endswith(" --init GLaMM-GranD-Pretrained")
    assert (
        after(recipe(), "testA", size="tiny") == "svp eval --size tiny --from-cache 'my caches/x'"
    )
    assert after(recipe("fusion", thin=True), projector="fusion").endswith(
        "--projector fusion --set model.projector.options.svp.ssa_variant=none"
    )
    assert after(recipe(purpose="look")) == "svp cache browse 'my caches/x'"


def test_the_command_that_makes_the_right_cache(tmp_path: Path) -> None:
    plan = sized_plan(recipe(purpose="look"), "train")
    assert command_for(plan, "svp") == (
        "svp precompute --split train --dataset DATA --superpixels sam --sam-model tiny "
        "--encoder tiny --out caches/svp"
    )
    cache = tmp_path / "my cache"
    (cache / "logs").mkdir(parents=True)
    words = ("--for", "look", "--dataset=my photos", "--out", "my cache", "--encoder", "tiny",
             "--projector=mlp", "--no-store-sam-embeddings", "--split", "train")  # fmt: skip
    write_places(cache, DataPlaces(dataset="d", images=tmp_path, command=words))
    assert command_for(plan, "pvtc", cache) == (
        "svp precompute '--dataset=my photos' --encoder tiny --split train --projector pvtc "
        f"--out '{cache}'"
    )
    other = command_for(plan, "svp", cache, features={"encoder": "dinov2-large", "size": "336"})
    assert other == (
        "svp precompute '--dataset=my photos' --split train --encoder dinov2-large "
        f"--set features.size=336 --out '{cache}'"
    )


def test_commands_that_are_told_name_the_plug_ins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file once, whether the command it comes from had it in front, behind or not at all."""
    monkeypatch.chdir(tmp_path)
    for name in ("halves.py", "pool.py"):
        (tmp_path / name).touch()
    made = Recipe(store_sam_embeddings=True)
    plan = sized_plan(made)
    hint = "svp --plugin halves.py precompute --split train --dataset d"
    words = launch._words(hint)
    assert words == ("--split", "train", "--dataset", "d", "--plugin", "halves.py")
    assert launch._words(hint.replace(" halves", "=halves"))[-1] == "--plugin=halves.py"
    assert (
        launch._words("svp --plugin halves.py quickstart")
        == launch._words("svp")
        == launch._words("")
        == ()
    )
    cache = tmp_path / "c"
    (cache / "logs").mkdir(parents=True)
    write_places(cache, DataPlaces(dataset="d", images=tmp_path, command=words))
    with plugins(["halves.py", "pool.py"]):
        told = command_for(plan, "mlp", cache)
        assert told.count("--plugin") == 2 and "--plugin pool.py" in told
        for split, command in (("train", "svp train"), ("val", "svp eval")):
            told = next_command(made, split, cache, size=None, projector="svp",
                                usual=made.features)  # fmt: skip
            assert told.startswith(command)
            assert told.endswith("--plugin halves.py --plugin pool.py")
    assert command_for(plan, "mlp", cache).count("--plugin") == 1
