"""A budget from the order of a cache to training, evaluation, an export and its answers."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import svp
from svp.pipeline.cache.layers import ORDER
from svp.pipeline.cache.order_layer import prior_of, shape_prior_of
from svp.pipeline.cache.plan import PLAN, Plan, all_plans
from svp.pipeline.cache.reader import CacheReader
from svp.pipeline.cache.verify import verify
from svp.pipeline.cache.worth import Prior
from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.errors import ConfigError, PlanMismatchError
from svp.pipeline.masks.rle import decode
from svp.pipeline.precompute import launch as precompute
from svp.pipeline.precompute.options import Flags
from svp.pipeline.precompute.run import RunOptions
from svp.pipeline.superpixels.slic import slic_superpixels
from svp.train.evaluation.results import Results, read_results
from svp.train.options import TrainFlags
from svp.train.runs import inputs
from svp.train.runs.cache_budget import BudgetRequest, budget_stats
from svp.train.runs.cache_order import OrderRequest, order_cache
from svp.train.runs.evaluate import EvalRequest, eval_command
from svp.train.runs.export import ExportRequest, export_command
from svp.train.runs.held_out import open_held_out
from svp.train.runs.inputs import DataRequest, TrainRequest, open_training
from svp.train.runs.predict import PredictRequest, predict_command
from svp.train.runs.train import train_command

SMALL = (
    "model.shape={hidden: 32, intermediate: 64, layers: 1, heads: 2, kv_heads: 2}",
    "model.projector.options={ssa_variant: none, token_answers: true}",
    "stages.0={name: align, steps: 2, warmup: 0, add_sspe: false}",
    "stages.1={name: finetune, steps: 2, warmup: 0, lora: true}",
    "global_batch=2",
    "run={micro_batch: 1, preview: 0, checkpoint: 4, log: 1}",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `scenes`, a cache `train` of four images and one of `val`, without orders."""
    root = tmp_path_factory.mktemp("world")
    write_scenes(root / "scenes", images=20, seed=3)
    for split, limit in (("train", 4), ("val", 1)):
        request = precompute.Request(
            dataset=str(root / "scenes"), split=split, out=root / split,
            flags=Flags(points_per_side=8, store_sam_embeddings=True),
            run=RunOptions(workers=0, limit=limit), quiet=True,
        )  # fmt: skip
        precompute.launch(request, precompute.open_request(request))
    return root


@pytest.fixture(scope="module")
def ordered(world: Path) -> Path:
    with pytest.raises(ConfigError, match="is of split val: .* --prior CACHE"):
        order_cache(OrderRequest(cache=world / "val"))
    with pytest.raises(ConfigError, match="has no order: make it first with `svp cache order"):
        order_cache(OrderRequest(cache=world / "val", prior=world / "train"))
    made = order_cache(OrderRequest(cache=world / "train"))
    assert made.fitted == made.images == 4 and verify(world / "train", full=True).ok
    again = order_cache(OrderRequest(cache=world / "train"))
    assert (again.cache, again.fitted, again.thresholds) == (made.cache, 0, made.thresholds)
    return world / "train"


@pytest.fixture
def asked(
    world: Path, ordered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> TrainRequest:
    monkeypatch.setattr(inputs, "TABLES", world / "tables")
    return TrainRequest(
        caches=(ordered,), data=DataRequest(dataset=str(world / "scenes")),
        flags=TrainFlags(lm="random:0", sam_decoder="shipped", budget="drawn"), overrides=SMALL,
        partial=True, runs=tmp_path / "runs", device="cpu",
    )  # fmt: skip


def test_curves_of_a_cache(world: Path) -> None:
    found = budget_stats(BudgetRequest(cache=world / "train"))
    assert found.images == 2 and found.budgets[:2] == (3, 4) and found.budgets[-1] < found.natural
    assert all(value <= found.full + 1e-9 for row in found.rows.values() for value in row)
    lines = "\n".join(found.lines())
    assert re.search(r"mean tokens +3 +4", lines) and "worth, one threshold" in lines
    assert json.loads(json.dumps(found.to_json()))["rows"].keys() == found.rows.keys()


def test_the_cap_of_another_cache_by_the_same_prior(
    world: Path, ordered: Path, tmp_path: Path
) -> None:
    flags = Flags(superpixels="slic", max_superpixels=5, cap_by=str(ordered))
    request = precompute.Request(
        dataset=str(world / "scenes"), split="val", out=tmp_path / "capped", flags=flags,
        run=RunOptions(workers=0, limit=1), quiet=True,
    )  # fmt: skip
    precompute.launch(request, precompute.open_request(request))
    reader = CacheReader(tmp_path / "capped")
    shapes = prior_of(ordered).shape
    assert shapes and reader.plan.recipe.superpixels.cap == shapes
    image = np.asarray(Image.open(world / "scenes" / "images" / "val_000000.png").convert("RGB"))
    every = slic_superpixels(image)
    worth = Prior.parse(shapes).worth_of_shapes(every)
    best = np.sort(np.argsort(-worth.astype(float), kind="stable")[:5])
    assert reader.superpixels(0).rles == tuple(every.rles[i] for i in best)
    with pytest.raises(ConfigError, match="has no order: make it first"):
        shape_prior_of(tmp_path / "capped")


def test_a_run_at_every_budget(asked: TrainRequest, world: Path, tmp_path: Path) -> None:
    run = train_command(asked).folder
    recipe = (Path(run) / "config.yaml").read_text()
    assert "drawn: true" in recipe and "counted: true" in recipe
    assert not Plan.load(asked.caches[0]).recipe.order, "the oldest plan is as it was"
    request = EvalRequest(
        data=asked.data, runs=asked.runs, checkpoint=Path(run), split="train", bounds=False,
        device="cpu", caches=asked.caches,
    )  # fmt: skip
    found: dict[str | None, Results] = {}
    for budget in (None, "3", "mean:5", "ask:3"):
        out = tmp_path / f"{budget}.jsonl"
        eval_command(replace(request, budget=budget, out=out))
        found[budget] = read_results(out)
    live = tmp_path / "live.jsonl"
    eval_command(replace(request, budget="mean:5", live=True, out=live))
    natural = CacheReader(asked.caches[0]).counts
    assert {row.tokens for row in found[None].rows} == {*natural.tolist()}
    assert {row.tokens for row in found["3"].rows} == {4}
    tokens = {row.image_id: row.tokens for row in found["mean:5"].rows}
    assert sum(tokens.values()) / len(tokens) == pytest.approx(6, abs=0.5)
    assert found[None].header.digests.get("budget") is None
    assert found["mean:5"].header.digests["budget"] == "mean:5"
    assert [r.tokens for r in read_results(live).rows] == [r.tokens for r in found["mean:5"].rows]
    assert {row.tokens for row in found["ask:3"].rows} == {4}
    assert (
        len({row.recall for row in found["ask:3"].rows}) > 2 and found["3"].rows[0].recall is None
    )

    # Unions of superpixels need no embedding of SAM, and are compared with the decoder's where it is.
    unions = replace(request, decoder=False, bounds=True, out=tmp_path / "unions.jsonl")
    said = eval_command(unions).lines()
    rows = read_results(tmp_path / "unions.jsonl")
    assert rows.header.digests["decoder"] == "none" and rows.rows[0].decoded is not None
    assert "masks are unions of superpixels" in said[0]
    assert any(re.match(r"seconds per answer: .* as a union, .* asked about once", n) for n in said)
    assert any("with SAM's decoder, of the same answers" in line for line in said)
    both = tmp_path / "both.jsonl"
    eval_command(replace(unions, budget="ask:3", bounds=False, reject_above=0.5, out=both))
    rows = read_results(both)
    assert rows.rows[0].decoded is None and rows.header.digests["reject_above"] == "0.5"
    chances = [row.rejection for row in rows.rows]
    assert [not row.has_seg for row in rows.rows] == [c is not None and c > 0.5 for c in chances]
    assert all(row.rejection is None for row in found["ask:3"].rows)
    with pytest.raises(ConfigError, match="--no-decoder is for given answers"):
        replace(unions, generate=True)
    with pytest.raises(ConfigError, match="ask:3 is for --protocol full"):
        replace(request, budget="ask:3", protocol="glamm")

    # An export has the prior with it, and asks no cache.
    export_command(ExportRequest(out=tmp_path / "model", checkpoint=Path(run), runs=asked.runs))
    photo = next((world / "scenes" / "images").glob("train_*.png"))
    predict = PredictRequest(
        images=photo, expressions=("red disc",), checkpoint=tmp_path / "model",
        runs=asked.runs, out=tmp_path / "out", device="cpu", budget="2",
    )  # fmt: skip
    assert predict_command(predict).photos[0].record["tokens"] == 3
    assert predict_command(replace(predict, budget=None)).photos[0].record["tokens"] > 3
    with pytest.raises(ConfigError, match="--budget drawn is for training"):
        predict_command(replace(predict, budget="drawn"))
    made = predict_command(replace(predict, budget="ask:2", decoder=False)).photos[0].record
    assert made["tokens"] == 3 and made["digests"]["decoder"] == "none"
    with svp.load(tmp_path / "model", decoder=False, device="cpu") as seg:
        answer = seg(photo, "red disc")
        cut = np.array([decode(mask) for mask in answer.superpixels.masks()]).astype(bool)
        inside = [bool(answer.mask[mask].all()) for mask in cut]
        assert answer.area and (answer.mask == cut[inside].any(axis=0)).all()
        with pytest.raises(ConfigError, match="leave out --generate"):
            seg(photo, "red disc", generate=True)
        assert not answer.rejected and answer.rejection is None
    made = predict_command(replace(predict, budget="ask:3", reject_above=0.0)).photos[0]
    (told,) = made.record["predictions"]
    asked_of = next(row for row in rows.rows if Path(row.path).name == photo.name)
    with svp.load(tmp_path / "model", budget="ask:3", device="cpu", reject_above=0.0) as seg:
        answer = seg(photo, asked_of.text)
    assert told["rejected"] and told["area"] == 0 and "no such object (chance" in made.lines()[-1]
    assert answer.rejected and not answer.area
    assert answer.rejection == pytest.approx(asked_of.rejection, abs=2e-3)


def test_a_model_without_token_answers_says_how_to_get_them(asked: TrainRequest) -> None:
    overrides = (SMALL[0], "model.projector.options={ssa_variant: none}", *SMALL[2:])
    run = Path(train_command(replace(asked, overrides=overrides)).folder)
    request = EvalRequest(
        data=asked.data, runs=asked.runs, checkpoint=run, split="train", bounds=False,
        device="cpu", caches=asked.caches,
    )  # fmt: skip
    for change in ({"decoder": False}, {"budget": "ask:3"}):
        with pytest.raises(
            ConfigError, match="no token answers: train one with .*token_answers=true"
        ):
            eval_command(replace(request, **change))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no token answers: train one with"):
        svp.load(run, decoder=False, device="cpu")
    patches = "model.projector={name: mlp, options: {token_answers: true}}"
    run = Path(train_command(replace(asked, overrides=(*overrides, patches, "budget=auto"))).folder)
    with pytest.raises(ConfigError, match="tokens of projector mlp are not superpixels"):
        svp.load(run, decoder=False, device="cpu")


def test_a_run_at_one_budget_answers_at_it(asked: TrainRequest, tmp_path: Path) -> None:
    flags = replace(asked.flags, budget="mean:5")
    run = train_command(replace(asked, flags=flags)).folder
    order = order_of(asked.caches[0])
    assert f"threshold: {order.thresholds[4]}" in (Path(run) / "config.yaml").read_text()
    request = EvalRequest(
        data=asked.data, runs=asked.runs, checkpoint=Path(run), split="train", bounds=False,
        device="cpu", caches=asked.caches, out=tmp_path / "own.jsonl",
    )  # fmt: skip
    eval_command(request)
    own = read_results(tmp_path / "own.jsonl")
    assert own.header.digests["budget"] == "mean:5"
    tokens = {row.image_id: row.tokens for row in own.rows}
    assert sum(tokens.values()) / len(tokens) == pytest.approx(6, abs=0.5)
    eval_command(replace(request, budget="auto", out=tmp_path / "all.jsonl"))
    assert "budget" not in read_results(tmp_path / "all.jsonl").header.digests


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"budget": "mean:99"}, ConfigError, "budget mean:99: .* use auto"),
        ({"budget": "some"}, ConfigError, "auto, a number, mean:N, ask:N or drawn"),
        ({"budget": "ask:3"}, ConfigError, "ask:3 is of answers: train with budget drawn"),
        ({"budget": "3", "projector": "mlp"}, ConfigError, "mlp makes no token of a superpixel"),
    ],
)
def test_what_is_refused_before_training(
    asked: TrainRequest, change: dict[str, str], error: type[Exception], message: str
) -> None:
    flags = replace(asked.flags, **change)
    overrides = SMALL if "projector" not in change else (SMALL[0], *SMALL[2:])
    with pytest.raises(error, match=message):
        train_command(replace(asked, flags=flags, overrides=overrides))
    assert not asked.runs.exists()


def test_caches_need_the_same_order(asked: TrainRequest, world: Path) -> None:
    held = replace(asked, validate=world / "val")
    with pytest.raises(ConfigError, match="has no order of its superpixels: .* --prior TRAINCACHE"):
        train_command(held)
    order_cache(OrderRequest(cache=world / "val", prior=asked.caches[0]))
    views = {path: plan for path, plan in all_plans(world / "val").items() if path != PLAN}
    (plan,) = views.values()
    assert plan.recipe.order == order_of(asked.caches[0]) and plan.layer(ORDER)
    assert open_held_out(held, open_training(held, "cpu"))
    with pytest.raises(PlanMismatchError, match="`svp cache drop .* order`"):
        order = order_of(world / "val").model_copy(update={"thresholds": (0.5,)})
        from svp.pipeline.superpixels.budget.selector import Budget, require_order

        require_order(Budget(exact=3).settled(order), plan, world / "val")


def order_of(cache: object):  # type: ignore[no-untyped-def]
    return next(p.recipe.order for p in all_plans(cache).values() if p.recipe.order)  # type: ignore[arg-type]
