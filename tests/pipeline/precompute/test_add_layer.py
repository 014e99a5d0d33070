"""Layers added to a finished cache: equal to those made at once, nothing computed twice."""

from collections import Counter
from pathlib import Path

import pytest

from svp.pipeline.cache import verify
from svp.pipeline.cache.exchange import copy_cache, drop_layers
from svp.pipeline.cache.plan import Plan, all_plans
from svp.pipeline.errors import ConfigError, MissingError, PlanMismatchError
from svp.pipeline.precompute.add_layer import AddRequest, add_layer
from svp.pipeline.precompute.launch import Request, launch, open_request
from svp.pipeline.precompute.options import Flags
from svp.pipeline.precompute.run import RunOptions

RUN = RunOptions(workers=0, limit=8)
FEW = ("superpixels.grid.points_per_side=4",)


def make(scenes: Path, out: Path, *overrides: str, **options: object) -> Plan:
    given: dict[str, object] = {"run": RUN} | options
    request = Request(
        dataset=str(scenes), split="train", out=out, size="tiny", quiet=True,
        overrides=(*FEW, *overrides), **given,  # type: ignore[arg-type]
    )  # fmt: skip
    launch(request, open_request(request))
    return Plan.load(out)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from svp.pipeline.datasets.scenes import write_scenes

    return write_scenes(tmp_path_factory.mktemp("scenes") / "s", images=20, seed=0)


@pytest.fixture(scope="module")
def whole(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All layers, made at once."""
    out = tmp_path_factory.mktemp("whole") / "cache"
    make(scenes, out, "features.cls=true", "features.layers=[3,4,5,6]", purpose="train")
    return out


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many images each model has seen."""
    from svp.pipeline.encoders.encoder import Encoder
    from svp.pipeline.superpixels import generator

    seen: Counter[str] = Counter()
    encode, batch, embed = (
        Encoder.encode, generator.SamSource.generate_batch, generator.Embedder.embed,
    )  # fmt: skip

    def counted_encode(self: Encoder, images: list[object]) -> object:
        seen["encoder"] += len(images)
        return encode(self, images)  # type: ignore[arg-type]

    def counted_batch(self: object, images: list[object], **options: bool) -> object:
        seen["superpixels"] += len(images)
        return batch(self, images, **options)  # type: ignore[arg-type]

    def counted_embed(self: object, images: list[object]) -> object:
        seen["sam"] += len(images)
        return embed(self, images)  # type: ignore[arg-type]

    monkeypatch.setattr(Encoder, "encode", counted_encode)
    monkeypatch.setattr(generator.SamSource, "generate_batch", counted_batch)
    monkeypatch.setattr(generator.Embedder, "embed", counted_embed)
    return seen


def layer_files(cache: Path, kind: str) -> dict[str, bytes]:
    root = cache / kind
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_layers_added_one_by_one_are_those_made_at_once(
    scenes: Path, whole: Path, tmp_path: Path, calls: Counter[str]
) -> None:
    out = tmp_path / "cache"
    make(scenes, out, purpose="look")
    assert calls == {"superpixels": 8, "encoder": 8}
    run = RunOptions(workers=0)
    for kind, overrides, model in [
        ("sam", (), "sam"),
        ("cls", (), "encoder"),
        ("layers", ("features.layers=[3,4,5,6]",), "encoder"),
    ]:
        calls.clear()
        report = add_layer(AddRequest(cache=out, kind=kind, overrides=overrides, run=run))
        assert (report.complete, report.computed, report.good) == (True, 8, 8)
        assert calls == {model: 8}, kind
    for kind in ("superpixels", "cover", "features", "sam", "cls", "layers"):
        assert layer_files(out, kind) == layer_files(whole, kind), kind
    assert [*all_plans(out).values()][-1].id == Plan.load(whole).id
    assert verify(out, full=True).ok


def test_another_view_of_the_encoder_computes_no_superpixel(
    scenes: Path, tmp_path: Path, calls: Counter[str]
) -> None:
    out = tmp_path / "cache"
    make(scenes, out, purpose="train")
    calls.clear()
    run, size = RunOptions(workers=0), ("features.size=64",)
    report = add_layer(AddRequest(cache=out, kind="features", overrides=size, run=run))
    assert (report.complete, report.computed) == (True, 8)
    assert calls == {"encoder": 8}
    first, second = all_plans(out).values()
    assert first.layer("superpixels").id == second.layer("superpixels").id
    assert first.layer("sam").id == second.layer("sam").id, "what was there stays together"
    calls.clear()
    add_layer(AddRequest(cache=out, kind="features", overrides=size, run=run))
    assert calls == {}, "again: nothing to do"

    # The same by `svp precompute` with another recipe, into the same and into another folder.
    make(scenes, out, "features.size=64", "features.cls=true", purpose="train")
    assert calls == {"encoder": 8}
    calls.clear()
    make(scenes, tmp_path / "beside", "features.size=64", purpose="train")
    assert calls == {}, "every layer is taken from the cache beside it"
    make(scenes, tmp_path / "far" / "away", "features.size=64", purpose="train")
    assert calls == {"superpixels": 8, "encoder": 8}
    for kind in ("superpixels", "cover", "features", "sam"):
        assert layer_files(tmp_path / "far/away", kind) == layer_files(tmp_path / "beside", kind)


def test_fewer_bits_are_made_of_what_is_there(
    scenes: Path, tmp_path: Path, calls: Counter[str]
) -> None:
    """By no model, in the cache itself and beside it; equal to those made of the photographs."""
    out, beside, far = (tmp_path / name for name in ("cache", "beside", "far/away"))
    run, fewer = RunOptions(workers=0), ("features.stored=mean+int4", "sam_stored=int8")
    exact = make(scenes, out, purpose="train")
    calls.clear()
    assert add_layer(AddRequest(cache=out, kind="pooled", run=run)).complete
    make(scenes, beside, *fewer, purpose="train")
    assert calls == {}
    make(scenes, far, *fewer, purpose="train")
    assert calls == {"superpixels": 8, "encoder": 8}
    for kind in ("superpixels", "cover", "pooled", "features", "sam"):
        assert layer_files(beside, kind) == layer_files(far, kind), kind
    assert layer_files(beside, "pooled") == layer_files(out, "pooled")
    assert verify(out, full=True).ok and verify(beside, full=True).ok

    with pytest.raises(ConfigError, match="holds the means already"):
        add_layer(AddRequest(cache=out, kind="pooled", run=run))
    with pytest.raises(ConfigError, match="keep both"):
        drop_layers(beside, ["pooled"])
    assert [name.split("/")[0] for name in drop_layers(out, ["pooled"])] == ["pooled"]
    assert [plan.id for plan in all_plans(out).values()] == [exact.id]
    assert drop_layers(beside, ["sam"]) == ["sam/tiny-int8"]
    assert Plan.load(beside).recipe.sam_stored == "float16"


def test_a_thin_cache_is_made_of_what_is_there(
    scenes: Path, tmp_path: Path, calls: Counter[str]
) -> None:
    """By no model, by copying too; equal to one made of the photographs; patches can be added."""
    full, beside, far = (tmp_path / name for name in ("cache", "beside", "far/away"))
    deep, thin = ("features.layers=[3,4,5,6]", "features.cls=true"), Flags(thin=True)
    make(scenes, full, *deep, purpose="train")
    calls.clear()
    plan = make(scenes, beside, *deep, flags=thin)
    copy_cache(full, tmp_path / "copy", thin=True)
    assert calls == {}
    make(scenes, far, *deep, flags=thin)
    assert calls == {"superpixels": 8, "encoder": 8}
    assert Plan.load(far).id == Plan.load(tmp_path / "copy").id == plan.id
    kinds = [layer.kind for layer in plan.layers]
    assert kinds == ["superpixels", "cover", "pooled", "cls", "sam"]
    for kind in kinds:
        assert layer_files(beside, kind) == layer_files(far, kind), kind
        assert layer_files(tmp_path / "copy", kind) == layer_files(far, kind), kind

    calls.clear()
    add_layer(AddRequest(cache=far, kind="features", run=RunOptions(workers=0)))
    first, second = all_plans(far).values()
    assert first.id == plan.id and not second.thin and calls == {"encoder": 8}
    for kind in ("features", "layers"):
        assert layer_files(far, kind) == layer_files(full, kind), kind
    wrong = AddRequest(cache=far, kind="features", flags=Flags(features="mean"))
    with pytest.raises(ConfigError, match="`svp cache add CACHE pooled`"):
        add_layer(wrong)


def test_what_cannot_be_added_is_refused(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    make(scenes, out, purpose="train")
    run = RunOptions(workers=0)
    with pytest.raises(ConfigError, match="already"):
        add_layer(AddRequest(cache=out, kind="sam", run=run))
    with pytest.raises(PlanMismatchError, match=r"features/tiny-128 is there and made otherwise"):
        dtype = ("features.dtype=bfloat16",)
        add_layer(AddRequest(cache=out, kind="features", overrides=dtype, run=run))
    with pytest.raises(ConfigError, match="--superpixels is not read when cls are added"):
        add_layer(AddRequest(cache=out, kind="cls", flags=Flags(superpixels="slic"), run=run))
    with pytest.raises(ConfigError, match="--limit"):
        add_layer(AddRequest(cache=out, kind="cls", run=RunOptions(workers=0, limit=3)))
    with pytest.raises(MissingError, match="--images"):
        (out / "logs" / "places.json").unlink()
        add_layer(AddRequest(cache=out, kind="cls", run=run))
    with pytest.raises(ConfigError, match="nope"):
        flags = Flags(encoder="nope")
        add_layer(AddRequest(cache=out, kind="features", images=scenes, flags=flags, run=run))


def test_photographs_that_another_cache_has_are_not_computed_again(
    scenes: Path, tmp_path: Path, calls: Counter[str]
) -> None:
    """Caches of other lists of the same photographs share rows, to the byte."""
    make(scenes, tmp_path / "a" / "first", purpose="train", run=RunOptions(workers=0, limit=5))
    calls.clear()
    make(scenes, tmp_path / "a" / "second", purpose="train")
    assert calls == {"superpixels": 3, "encoder": 8}, "8 images, 5 lent; two batches of a size"
    make(scenes, tmp_path / "b" / "alone", purpose="train")
    for kind in ("superpixels", "cover", "features", "sam"):
        assert layer_files(tmp_path / "a/second", kind) == layer_files(tmp_path / "b/alone", kind)

    # A damaged row of the other cache is computed.
    for path in (tmp_path / "a").glob("*/sam/*/sam/c/0/0/0/0"):
        data = bytearray(path.read_bytes())
        data[10] ^= 1
        path.write_bytes(data)
    make(scenes, tmp_path / "a" / "third", purpose="train", run=RunOptions(workers=0, limit=7))
    third = layer_files(tmp_path / "a/third", "sam")
    make(scenes, tmp_path / "c" / "third", purpose="train", run=RunOptions(workers=0, limit=7))
    assert third == layer_files(tmp_path / "c/third", "sam")
