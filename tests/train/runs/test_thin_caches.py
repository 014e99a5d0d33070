"""Training and evaluation on a thin cache: as on the full one, or refused before a model is loaded."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from support.answered import masks
from svp.pipeline.cache.exchange import copy_cache
from svp.pipeline.cache.plan import Plan, all_plans
from svp.pipeline.cache.reader import CacheReader
from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.errors import ConfigError
from svp.pipeline.precompute import launch as precompute
from svp.pipeline.precompute.add_layer import AddRequest, add_layer
from svp.pipeline.precompute.options import Flags
from svp.pipeline.precompute.run import RunOptions
from svp.train import factory
from svp.train.data.collate import CachedVisuals
from svp.train.data.expression_table import Entry
from svp.train.evaluation.results import read_results
from svp.train.options import TrainFlags
from svp.train.runs import inputs
from svp.train.runs.evaluate import EvalRequest, eval_command
from svp.train.runs.inputs import DataRequest, TrainRequest, open_training
from svp.train.runs.predict import PredictRequest, predict_command
from svp.train.runs.train import train_command

WITHOUT_SSA = "model.projector.options.ssa_variant=none"
SMALL = (
    "model.shape={hidden: 32, intermediate: 64, layers: 1, heads: 2, kv_heads: 2}",
    "stages.0={name: align, steps: 2, warmup: 0, add_sspe: false}",
    "stages.1={name: finetune, steps: 1, warmup: 0, lora: true}",
    "global_batch=2",
    "run={micro_batch: 1, preview: 0, checkpoint: 3, log: 1}",
)
ROUNDING = 2.0**-11  # of float16, relative


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `scenes`, a cache `full` of four layers of an encoder, and its copy `thin`."""
    root = tmp_path_factory.mktemp("world")
    write_scenes(root / "scenes", images=20, seed=3)
    request = precompute.Request(
        dataset=str(root / "scenes"), split="train", out=root / "full", projector="fusion",
        flags=Flags(points_per_side=8, store_sam_embeddings=True, sam_stored="int8"),
        run=RunOptions(workers=0, limit=4), quiet=True,
    )  # fmt: skip
    precompute.launch(request, precompute.open_request(request))
    copy_cache(root / "full", root / "thin", thin=True)
    return root


@pytest.fixture
def asked(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainRequest:
    """A training on the thin cache."""
    monkeypatch.setattr(inputs, "TABLES", world / "tables")
    return TrainRequest(
        caches=(world / "thin",), data=DataRequest(dataset=str(world / "scenes")),
        flags=TrainFlags(lm="random:0", sam_decoder="shipped"), overrides=SMALL, partial=True,
        runs=tmp_path / "runs", device="cpu",
    )  # fmt: skip


def losses(run: str) -> list[float]:
    lines = (Path(run) / "metrics.jsonl").read_text().splitlines()
    return [row["loss"] for row in map(json.loads, lines) if "loss" in row]


def projector(name: str, options: str = "{}") -> str:
    return f"model.projector={{name: {name}, options: {options}}}"


@pytest.mark.parametrize(
    "override",
    [WITHOUT_SSA, projector("fusion", "{svp: {ssa_variant: none}}")],
    ids=["svp", "fusion"],
)
def test_losses_are_those_of_the_full_cache(
    asked: TrainRequest, world: Path, override: str
) -> None:
    """Float16 rounds the means, and nothing else differs: the losses to a thousandth."""
    runs = []
    for cache in ("full", "thin"):
        request = replace(asked, caches=(world / cache,), overrides=(*SMALL, override))
        runs.append(losses(str(train_command(request).folder)))
    assert len(runs[0]) == 3 and runs[1] == pytest.approx(runs[0], rel=1e-3)


def test_tokens_differ_by_the_rounding_of_the_means(asked: TrainRequest, world: Path) -> None:
    entries = [Entry("refcoco", 0, 0, i, 128, 128) for i in range(4)]
    full, thin = (
        CachedVisuals([CacheReader(world / name)], {"masks", "multi"}).read(
            entries, [None, 3, 4, 5]
        )
        for name in ("full", "thin")
    )
    a, b = full[0], thin[0]
    assert b.patches.shape == (4, 0, 96) and a.means is None and b.means is not None
    assert torch.equal(full[1], thin[1]), "SAM's embedding"
    for name in ("cover", "masks", "valid"):
        assert torch.equal(getattr(a, name), getattr(b, name))
    assert a.cover is not None and a.multi is not None and b.multi is not None
    share = a.cover.double() / a.cover.double().sum(2, keepdim=True).clamp_min(1e-6)
    for stored, patches in ((b.means, a.patches), (b.multi, a.multi)):
        wanted = share @ patches.double()
        bound = 1.01 * ROUNDING * wanted.abs() + 1e-6
        assert ((stored.double() - wanted).abs() <= bound).all()


@pytest.mark.parametrize(
    "override",
    [
        "seed=0",
        "model.projector.options={ssa_variant: none, binary_cover: true}",
        projector("mlp"),
        projector("fusion"),
    ],
)
def test_a_projector_that_reads_patches_is_refused_before_a_model_is_loaded(
    asked: TrainRequest, world: Path, monkeypatch: pytest.MonkeyPatch, override: str
) -> None:
    """One error: what is not there, and the command that adds it."""

    def load(*args: Any, **options: Any) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(factory, "load_lm", load)
    monkeypatch.setattr(factory, "build_projector", load)
    with pytest.raises(
        ConfigError,
        match=r"reads patch features, which cache \w+ does not hold: .*"
        rf"`svp cache add {world}/thin features --encoder tiny` adds them",
    ) as told:
        train_command(replace(asked, overrides=(*SMALL, override)))
    assert told.value.exit_code == 2 and not asked.runs.exists()


def test_one_training_has_no_thin_and_full_cache(asked: TrainRequest, world: Path) -> None:
    caches = (world / "thin", world / "full")
    with pytest.raises(ConfigError, match="other shapes or encoders"):
        train_command(replace(asked, caches=caches, overrides=(*SMALL, WITHOUT_SSA)))


def test_results_are_those_of_the_full_cache(
    asked: TrainRequest, world: Path, tmp_path: Path
) -> None:
    """A run of the one is evaluated on the other, cached and live; its results say on which."""
    run = train_command(replace(asked, overrides=(*SMALL, WITHOUT_SSA))).folder
    request = EvalRequest(
        data=asked.data, runs=asked.runs, checkpoint=Path(run), split="train", bounds=False,
        device="cpu",
    )  # fmt: skip
    found = {}
    for cache, live in (("full", False), ("thin", False), ("thin", True)):
        out = tmp_path / f"{cache}-{live}.jsonl"
        eval_command(replace(request, caches=(world / cache,), live=live, out=out))
        found[cache, live] = read_results(out)
    areas = {
        key: [(row.intersection, row.union) for row in results.rows]
        for key, results in found.items()
    }
    assert areas["thin", True] == areas["thin", False]
    pixels = 128 * 128
    for one, two in zip(areas["full", False], areas["thin", False], strict=True):
        assert abs(one[0] - two[0]) + abs(one[1] - two[1]) <= 0.001 * pixels
    ids = {key: results.header.digests["cache 0"] for key, results in found.items()}
    assert ids["full", False] == Plan.load(world / "full").id
    assert ids["thin", False] == ids["thin", True] == Plan.load(world / "thin").id
    photo = next((world / "scenes" / "images").glob("train_*.png"))
    predict = PredictRequest(
        images=photo, expressions=("red disc",), cache=world / "thin", checkpoint=Path(run),
        runs=asked.runs, out=tmp_path / "out", device="cpu",
    )  # fmt: skip
    assert masks(predict_command(predict))[0].shape == (128, 128)


def test_a_model_that_reads_patches_is_not_evaluated_on_means(
    asked: TrainRequest, world: Path
) -> None:
    run = train_command(replace(asked, caches=(world / "full",))).folder
    request = EvalRequest(
        data=asked.data, runs=asked.runs, checkpoint=Path(run), split="train", bounds=False,
        device="cpu", caches=(world / "thin",),
    )  # fmt: skip
    with pytest.raises(ConfigError, match=f"reads patch features, .* `svp cache add {world}/thin "):
        eval_command(request)


def test_the_command_of_the_error_adds_what_is_missing(
    asked: TrainRequest, world: Path, tmp_path: Path
) -> None:
    """The model with SSA then reads the plan with patches, the one without that with means."""
    cache = tmp_path / "thin"
    thin = copy_cache(world / "full", cache, thin=True)
    flags = Flags(encoder="tiny")
    add_layer(AddRequest(cache=cache, kind="features", flags=flags, run=RunOptions(workers=0)))
    first, second = all_plans(cache).values()
    assert first.id == thin.id and not second.thin
    full = Plan.load(world / "full")
    assert second.layer("features").id == full.layer("features").id
    assert second.layer("sam") == first.layer("sam")
    for override, plan in (("seed=0", second), (WITHOUT_SSA, first)):
        request = replace(asked, caches=(cache,), overrides=(*SMALL, override))
        assert open_training(request, "cpu").readers[0].plan.id == plan.id
