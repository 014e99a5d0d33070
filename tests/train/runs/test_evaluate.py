"""`svp eval` and `svp predict` from end to end: a checkpoint, three generated scenes, live encoders."""

import dataclasses
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from support.answered import masks
from support.told import failures
from svp.cli import main
from svp.model.pretrained import load_pretrained
from svp.model.pretrained.config import read_model_file
from svp.pipeline.cache import create_cache
from svp.pipeline.cache.plan import Plan
from svp.pipeline.datasets import open_dataset
from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.errors import CacheError, ConfigError, MissingError, PlanMismatchError
from svp.pipeline.masks import runs as rl
from svp.pipeline.masks.rle import decode
from svp.pipeline.precompute.options import Flags, resolve
from svp.pipeline.precompute.planner import Content, build_plan
from svp.pipeline.records import Rle
from svp.pipeline.superpixels.candidates import full_image, to_superpixels
from svp.pipeline.weights.load import weights_digest
from svp.pipeline.weights.reference import WeightsRef
from svp.train.evaluation.load_trained import find_trained, open_trained
from svp.train.evaluation.results import read_results
from svp.train.factory import assemble, new_projector
from svp.train.metrics import metrics
from svp.train.options import Places, TrainFlags, TrainRequest, resolve_train
from svp.train.recipe import ProjectorConfig, TrainRecipe, parse_train_recipe
from svp.train.runs import evaluate
from svp.train.runs.answer import Answer
from svp.train.runs.evaluate import EvalRequest, eval_command, free_name, report_command
from svp.train.runs.export import ExportRequest, export_command
from svp.train.runs.inputs import DataRequest
from svp.train.runs.newest_cache import find_cache
from svp.train.runs.predict import PredictReport, PredictRequest, predict_command
from svp.train.trainer.checkpoint import Checkpoint, State, save_checkpoint
from svp.train.trainer.prepare import make_ready

RECIPE = parse_train_recipe(
    {
        "model": {
            "init": "none", "lm": "random:0", "sam_decoder": "shipped", "dtype": "float32",
            "shape": {"hidden": 16, "intermediate": 24, "layers": 1, "heads": 2, "kv_heads": 2},
            "vision": {"encoder": "tiny", "size": 128},
            "projector": {"name": "svp", "options": {
                "num_queries": 2, "sspe_dim": 8, "sspe_heads": 2, "sspe_blocks": 1, "sspe_ffn": 16,
                "ssa_heads": 2, "ssa_blocks": 1, "ssa_ffn": 16, "mlp_hidden": 16}},
        },
        "stages": [{"name": "one", "steps": 2, "warmup": 0, "add_sspe": False},
                   {"name": "two", "steps": 2, "warmup": 0, "lora": True}],
    },
    "test",
)  # fmt: skip


def save(folder: Path, recipe: TrainRecipe, plan: Plan) -> None:
    """A checkpoint after step 3, with trained values that are not those of the start."""
    made = assemble(recipe, plan, Places())
    make_ready(made.model, recipe, 1, made.new_rows)
    with torch.no_grad():
        torch.manual_seed(1)
        made.model.to_prompt.get_parameter("2.bias").normal_()
        for name, parameter in made.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    trained = {n: p.detach() for n, p in made.model.named_parameters() if p.requires_grad}
    state = State(
        schema_version=1, step=3, stage=1, stage_step=1, recipe=json.loads(recipe.canonical()),
        data={}, cursor={}, world=1, micro_batch=1,
    )  # fmt: skip
    save_checkpoint(folder / "run" / "checkpoints", state, trained, {})


@pytest.fixture(scope="module")
def request_(tmp_path_factory: pytest.TempPathFactory) -> EvalRequest:
    """Three val scenes, the plan of their cache without rows, and a run with a checkpoint."""
    root = tmp_path_factory.mktemp("eval")
    scenes = write_scenes(root / "scenes", images=4, seed=9, splits={"train": 1, "val": 3})
    source = open_dataset(scenes, split="val")
    flags = Flags(points_per_side=4, store_sam_embeddings=True)
    recipe, _ = resolve("tiny", None, flags, (), source.image_root)
    plan = build_plan(Content(source.images, "val", source.sha256), recipe, source.image_root)
    create_cache(root / "cache", plan)
    save(root / "runs", RECIPE, plan)
    data = DataRequest(dataset=str(scenes), images=source.image_root)
    return EvalRequest(
        data=data, caches=(root / "cache",), runs=root / "runs", live=True, device="cpu", batch=1,
    )  # fmt: skip


def test_evaluate_then_recompute_then_predict(request_: EvalRequest, tmp_path: Path) -> None:
    report = eval_command(request_)
    (found,) = report.splits
    assert (found.size.images, found.size.dataset) == (3, "refcoco") and not found.published
    out = request_.runs / "run" / "eval" / "val-full-1.jsonl"
    results = read_results(out)
    assert {n: v.value for n, v in found.values.items()} == metrics(results.counts)
    assert report_command(out).splits[0].values == found.values
    assert (out.with_suffix("") / "index.html").read_text("utf-8").count("<img") >= 3
    assert results.header.digests.keys() >= {"recipe", "checkpoint", "cache 0"}
    assert all(row.bounds is not None and row.bounds.point is not None for row in results.rows)
    assert {c for row in results.rows for c in row.classes} <= {
        "attribute", "size", "position", "relation",
    }  # fmt: skip

    row = results.rows[len(results.rows) // 2]
    asked = PredictRequest(
        images=request_.data.images / row.path if request_.data.images else Path(),
        expressions=(row.text, "red disc"), cache=request_.caches[0], runs=request_.runs,
        out=tmp_path / "out", device="cpu",
    )  # fmt: skip
    predicted = predict_command(asked)
    mask = np.asarray(Image.open(predicted.files[0]))
    # Two dialogues in one batch instead of one: rounding may move a pixel of the border.
    assert mask.shape == (row.height, row.width) and set(np.unique(mask)) <= {0, 255}
    assert ((mask > 0) != decode(row.mask)).sum() <= 5 and row.tokens == predicted.photos[0].record[
        "tokens"
    ]
    record = json.loads(predicted.files[-1].read_text())
    height, width = record["predictions"][0]["mask"]["size"]
    counts = record["predictions"][0]["mask"]["counts"].encode()
    assert (decode(Rle(height, width, counts)) == (mask > 0)).all()
    assert len(predicted.files) == 5 and all(path.is_file() for path in predicted.files)


def test_models_of_two_precisions_in_one_process(request_: EvalRequest, tmp_path: Path) -> None:
    model = RECIPE.model.model_copy(update={"dtype": "bfloat16"})
    plan = Plan.load(request_.caches[0])
    save(tmp_path, RECIPE.model_copy(update={"model": model}), plan)
    quick = replace(request_, bounds=False, limit=1)
    exact = eval_command(replace(quick, out=tmp_path / "float32.jsonl"))
    rough = eval_command(replace(quick, runs=tmp_path, out=tmp_path / "bfloat16.jsonl"))
    assert exact.header.digests["recipe"] != rough.header.digests["recipe"]
    eval_command(replace(quick, out=tmp_path / "again.jsonl"))
    assert read_results(tmp_path / "again.jsonl") == read_results(tmp_path / "float32.jsonl")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"encoder_weights": Path("w.pth")}, "--encoder-weights w.pth would not be read.*--live"),
        ({"sam_weights": Path("w.pth"), "bounds": False}, "--sam-weights w.pth would not be read"),
        (
            {"published": "GLaMM", "caches": (Path("c"),), "encoder_weights": Path("w")},
            "not be read",
        ),
        ({"published": "GLaMM", "own_sam": True, "sam_weights": Path("w")}, "--own-sam replaces"),
    ],
)
def test_a_weight_file_that_would_not_be_read_is_refused(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        EvalRequest(**changes)
    EvalRequest(published="GLaMM", sam_weights=Path("w"), encoder_weights=Path("w"))
    EvalRequest(live=True, bounds=False, sam_weights=Path("w"), encoder_weights=Path("w"))
    EvalRequest(sam_weights=Path("w"))  # for the upper bounds
    for kind in ({"sam_weights": Path("w")}, {"encoder_weights": Path("w")}):
        with pytest.raises(ConfigError, match="would not be read.*--live"):
            TrainRequest(**kind)
        TrainRequest(**kind, live=True)
    with pytest.raises(ConfigError, match="--own-sam replaces"):
        PredictRequest(
            images=Path("a.png"), expressions=("a",), published="GLaMM", own_sam=True,
            sam_weights=Path("w"),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("recorded", "here", "theirs"),
    [
        ({"sam": "tiny random:7"}, "SAM tiny shipped", "uses SAM tiny random:7"),
        (
            {"features": "tiny random:7 view squash 128 px"},
            "features of tiny shipped view squash 128 px",
            "reads tiny random:7",
        ),
    ],
)
def test_photographs_of_other_frozen_models_than_the_runs_are_refused(
    request_: EvalRequest, tmp_path: Path, recorded: dict[str, str], here: str, theirs: str
) -> None:
    from svp.train.trainer.checkpoint import Checkpoint

    run = next((request_.runs / "run" / "checkpoints").iterdir())
    checkpoint = Checkpoint.open(run)
    state = checkpoint.state.model_copy(update=recorded)
    save_checkpoint(tmp_path / "other" / "checkpoints", state, checkpoint.weights(), {})
    with pytest.raises(PlanMismatchError, match=f"{here}[,;] the run other {theirs}"):
        eval_command(replace(request_, runs=tmp_path))
    asked = PredictRequest(
        images=next((request_.data.images or Path()).rglob("*.png")), expressions=("red disc",),
        cache=request_.caches[0], runs=tmp_path, out=tmp_path / "out", device="cpu",
    )  # fmt: skip
    with pytest.raises(PlanMismatchError, match=f"the run other {theirs}"):
        predict_command(asked)


def _only_val(real: Any) -> Any:
    """`evaluate` that is asked about no image of the split train."""

    def evaluate(model: Any, units: Any, *rest: Any) -> Any:
        assert all("val" in unit.example.path for unit in units)
        return real(model, units, *rest)

    return evaluate


def test_several_splits_by_one_model(
    request_: EvalRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from svp.train.runs import evaluate as eval_run

    scenes = Path(str(request_.data.dataset))
    source = open_dataset(scenes, split="train")
    known = Plan.load(request_.caches[0])
    content = Content(source.images, "train", source.sha256)
    create_cache(tmp_path / "train", build_plan(content, known.recipe, source.image_root))
    loaded: list[object] = []
    real = eval_run.open_trained
    monkeypatch.setattr(eval_run, "open_trained", lambda *a, **k: loaded.append(a) or real(*a, **k))
    both = replace(
        request_, split="train, val", caches=(request_.caches[0], tmp_path / "train"),
        out=tmp_path / "mine.jsonl", bounds=False, limit=1,
    )  # fmt: skip
    report = eval_command(both)
    assert len(loaded) == 1
    assert report.files == (tmp_path / "mine-train.jsonl", tmp_path / "mine-val.jsonl")
    assert [split.size.split for split in report.splits] == ["train", "val"]
    assert {"train cache 0", "val cache 0", "checkpoint"} <= report.header.digests.keys()
    assert report.to_json()["files"] == [str(path) for path in report.files]
    alone = eval_command(replace(request_, out=tmp_path / "val.jsonl", bounds=False, limit=1))
    assert read_results(tmp_path / "mine-val.jsonl") == read_results(tmp_path / "val.jsonl")
    assert alone.header.digests["cache 0"] == report.header.digests["val cache 0"]
    with pytest.raises(MissingError, match=r"no cache of testA is named.*is of val.*--split testA"):
        eval_command(replace(request_, split="val,testA"))
    (tmp_path / "mine-val.jsonl").unlink()  # as if it had been stopped between the splits
    monkeypatch.setattr(eval_run, "evaluate", _only_val(eval_run.evaluate))
    assert eval_command(both).files == report.files
    with pytest.raises(ConfigError, match=r"mine-train.jsonl contains other results"):
        eval_command(replace(both, seed=1))
    for wrong in ("val,val", "val,", ""):
        with pytest.raises(ConfigError, match="--split"):
            replace(request_, split=wrong)


def test_generated_answers_are_part_of_the_record(request_: EvalRequest, tmp_path: Path) -> None:
    assert request_.data.images is not None
    photo = min(request_.data.images.glob("val*"))
    report = predict_command(
        PredictRequest(
            images=photo, expressions=("red disc",), cache=request_.caches[0], generate=True,
            runs=request_.runs, out=tmp_path, device="cpu",
        )
    )  # fmt: skip
    (found,) = report.photos[0].record["predictions"]
    assert found["text"] is not None and (found["has_seg"] or found["area"] == 0)


def test_toy_models_are_refused_on_other_data(request_: EvalRequest, tmp_path: Path) -> None:
    """The same photographs in a folder that is no set of generated scenes."""
    assert request_.data.images is not None
    photos = Path(shutil.copytree(request_.data.images, tmp_path / "photos"))
    other = replace(request_, data=replace(request_.data, images=photos))
    with pytest.raises(ConfigError, match="not generated scenes, and the tiny SAM .*--size tiny"):
        eval_command(other)
    asked = PredictRequest(
        images=min(photos.glob("val*")), expressions=("red disc",), cache=request_.caches[0],
        runs=request_.runs, out=tmp_path / "out", device="cpu",
    )  # fmt: skip
    with pytest.raises(ConfigError, match="not generated scenes, and the tiny SAM .*--size tiny"):
        predict_command(asked)
    assert masks(predict_command(replace(asked, size="tiny")))[0].shape == (128, 128)


@pytest.mark.parametrize(
    ("step", "fails"), [("upper bounds", "point_decoder"), ("result file", "write_results")]
)
def test_an_error_of_one_process_is_told_to_the_others(
    request_: EvalRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, fails: str
) -> None:
    def full(*arguments: Any) -> None:
        raise CacheError("no space")

    told = failures(monkeypatch)
    monkeypatch.setattr(evaluate, fails, full)
    with pytest.raises(CacheError, match="no space"):
        eval_command(replace(request_, limit=1, out=tmp_path / "out.jsonl"))
    assert [name for name, _ in told] == [step]


def test_results_get_new_names(request_: EvalRequest, tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        path = free_name(tmp_path, replace(request_, generate=True, protocol="glamm"))
        path.touch()
        names.append(path.name)
    assert names == [f"val-glamm-generated-{n}.jsonl" for n in (1, 2, 3)]
    options = ("model.projector.options.tokens=4",)
    asked = replace(request_, overrides=options, budget="mean:8", decoder=False, reject_above=0.2)
    name = free_name(tmp_path, asked).name
    assert name == "val-full-unions-tokens-4-mean-8-reject-0.2-1.jsonl"


def test_what_does_not_belong_together_is_refused(request_: EvalRequest, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"no trained model in .*svp train"):
        eval_command(replace(request_, runs=tmp_path))
    with pytest.raises(MissingError, match=r"no such cache.*--split val"):
        eval_command(replace(request_, caches=(tmp_path / "none",)))
    vision = RECIPE.model.vision.model_copy(update={"view": "pad"})
    other = RECIPE.model_copy(update={"model": RECIPE.model.model_copy(update={"vision": vision})})
    plan = Plan.load(request_.caches[0])
    features = plan.recipe.features.model_copy(update={"view": "pad"})
    padded = replace(plan, recipe=plan.recipe.model_copy(update={"features": features}))
    save(tmp_path / "runs", other, padded)
    with pytest.raises(PlanMismatchError, match="view squash.*wants tiny, view pad"):
        eval_command(replace(request_, runs=tmp_path / "runs"))
    for wrong in ({"repeats": 2}, {"protocol": "glamm", "shuffle_orders": 1}, {"batch": 0}):
        with pytest.raises(ConfigError, match="--"):
            replace(request_, **wrong)
    with pytest.raises(ConfigError, match="expression"):
        predict_command(PredictRequest(images=Path("x.png"), expressions=()))


def test_of_a_cache_with_several_plans_the_models_own_is_read(
    request_: EvalRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of --cache, and of one that is looked for by the plan in a result file."""
    source = open_dataset(str(request_.data.dataset), split="val")
    plan, content = (
        Plan.load(request_.caches[0]),
        Content(source.images, "val", source.sha256),
    )
    features = plan.recipe.features.model_copy(update={"view": "pad"})
    padded = plan.recipe.model_copy(update={"features": features})
    cache = tmp_path / "caches" / "both"
    create_cache(cache, build_plan(content, padded, source.image_root))
    create_cache(cache, plan, view=True)
    photo = source.image_root / source.images[0].path
    asked = PredictRequest(
        images=photo, expressions=("red disc",), cache=cache, runs=request_.runs,
        out=tmp_path / "out", device="cpu",
    )  # fmt: skip
    alone = predict_command(replace(asked, cache=request_.caches[0], out=tmp_path / "alone"))
    found = predict_command(asked)
    assert np.array_equal(masks(found)[0], masks(alone)[0])
    monkeypatch.chdir(tmp_path)
    assert find_cache(plan.id) == Path("caches/both")


def test_overlay_marks_the_mask_and_nothing_else() -> None:
    photo = np.full((9, 9, 3), 100, np.uint8)
    mask = np.zeros((9, 9), np.bool_)
    mask[2:7, 2:7] = True
    cut = full_image(9, 9)
    whole = to_superpixels(cut, rl.encode(cut.runs), {}, True)
    drawn = np.asarray(Answer("all", mask, 1.0, 1, whole, photo, {}).overlay)
    assert (drawn[~mask] == 100).all() and (drawn[2, 2] == 255).all()
    assert (drawn[4, 4] != 100).any() and (photo == 100).all()


@pytest.mark.gpu
def test_a_gpu_counts_the_pixels_that_the_cpu_counts(request_: EvalRequest, tmp_path: Path) -> None:
    rows = []
    for device in ("cpu", "cuda"):
        out = tmp_path / f"{device}.jsonl"
        eval_command(replace(request_, device=device, out=out))
        rows.append(read_results(out).rows)
    for ours, theirs in zip(*rows, strict=True):
        assert (ours.sent_id, ours.tokens) == (theirs.sent_id, theirs.tokens)
        flipped = (decode(ours.mask) != decode(theirs.mask)).mean()
        assert flipped < 0.01


@pytest.fixture(scope="module")
def exported(request_: EvalRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run as a folder of `svp export`, beside a photograph."""
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        made = export_command(
            ExportRequest(out=Path("model"), runs=request_.runs, cache=request_.caches[0])
        )
    assert {"config.json", "model.safetensors", "README.md"} <= made.files.keys()
    photo = min((request_.data.images or Path()).rglob("*.png"))
    Image.open(photo).save(folder / "photo.jpg", "PNG")
    return folder


def predicted(folder: Path, checkpoint: Path | None, **options: Any) -> PredictReport:
    return predict_command(
        PredictRequest(
            images=folder / "photo.jpg", expressions=("the red disc",), checkpoint=checkpoint,
            out=folder / "predictions", device="cpu", size="tiny", **options,
        )
    )  # fmt: skip


def test_an_export_predicts_alone_as_its_run_does(request_: EvalRequest, exported: Path) -> None:
    own = predicted(exported, exported / "model")
    run = predicted(exported, None, runs=request_.runs, cache=request_.caches[0])
    differ = masks(own)[0] != masks(run)[0]
    mine, theirs = own.photos[0].record, run.photos[0].record
    assert differ.sum() <= 5 and mine["tokens"] == theirs["tokens"]  # merged LoRA rounds otherwise
    assert mine["digests"]["exported"] == "model"
    about = read_model_file(exported / "model")
    kept = Plan.load(request_.caches[0]).recipe
    assert about.preprocessing is not None and about.preprocessing.recipe == kept
    assert about.preprocessing.mean == (0.485, 0.456, 0.406)


def test_files_of_an_export_can_be_read_by_others(exported: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (exported / "model").iterdir()}
    assert set(modes.values()) == {0o666 & ~umask}, modes


def test_an_export_is_evaluated(request_: EvalRequest, exported: Path) -> None:
    out = exported / "results.jsonl"
    asked = replace(request_, checkpoint=exported / "model", out=out, bounds=False, split="val")
    (ours,) = eval_command(asked).splits
    other = exported / "run.jsonl"
    (run,) = eval_command(replace(request_, out=other, bounds=False)).splits
    assert ours.values["gIoU"].value == pytest.approx(run.values["gIoU"].value, abs=2e-3)
    header = read_results(out).header
    assert header.digests["checkpoint"] == weights_digest(exported / "model")


def test_the_cards_block_runs_when_pasted(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = (exported / "model" / "README.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    monkeypatch.chdir(exported)
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)  # noqa: S102 - it is what a user pastes
    height, width = np.asarray(Image.open("photo.jpg")).shape[:2]
    assert names["answer"].mask.shape == (height, width) and names["answer"].mask.dtype == bool
    assert str((height, width)) in capsys.readouterr().out


def test_training_starts_from_an_export(request_: EvalRequest, exported: Path) -> None:
    plan = Plan.load(request_.caches[0])
    folder = exported / "model"
    raw = json.loads(RECIPE.canonical())
    raw["model"] |= {"init": "given", "lm": "none", "sam_decoder": "none"}
    file = exported / "recipe.yaml"
    file.write_text(json.dumps(raw))
    recipe, places = resolve_train(None, file, TrainFlags(init=str(folder)), ())
    assert recipe.model.init == WeightsRef("svp", weights_digest(folder)) and places.init == folder
    made, source = assemble(recipe, plan, places).model, load_pretrained(str(folder))
    for name, tensor in source.state_dict().items():
        torch.testing.assert_close(made.state_dict()[name], tensor, rtol=0, atol=0)
    assert new_projector(recipe, plan, places) == ""
    other = recipe.model.model_copy(update={"projector": ProjectorConfig(name="mlp")})
    changed = recipe.model_copy(update={"model": other})
    assert "projector mlp starts from random" in new_projector(changed, plan, places)
    wider = dataclasses.replace(plan, channels=plan.channels + 1)
    said = f"that of {folder.name} reads {plan.channels} channels on grid (16, 16), cache"
    assert said in new_projector(recipe, wider, places)
    fresh = assemble(recipe.model_copy(update={"model": other}), plan, places).model
    assert type(fresh.projector).__name__ == "MLP"
    assert torch.equal(fresh.to_prompt[0].weight, source.to_prompt[0].weight)


def test_an_export_refuses_what_it_was_not_made_for(
    request_: EvalRequest, exported: Path, tmp_path: Path
) -> None:
    folder = exported / "model"
    plan = Plan.load(request_.caches[0])
    pixels = plan.recipe.superpixels.model_copy(update={"weights": WeightsRef("random", "7")})
    other = dataclasses.replace(plan, recipe=plan.recipe.model_copy(update={"superpixels": pixels}))
    with pytest.raises(
        PlanMismatchError, match="SAM tiny random:7, the model model uses SAM tiny sh"
    ):
        open_trained(find_trained(folder, tmp_path), other, TrainFlags())
    seen = plan.recipe.features.model_copy(update={"view": "pad"})
    other = dataclasses.replace(plan, recipe=plan.recipe.model_copy(update={"features": seen}))
    with pytest.raises(PlanMismatchError, match="view pad, 128 px; model reads tiny, view squash"):
        open_trained(find_trained(folder, tmp_path), other, TrainFlags())
    with pytest.raises(ConfigError, match="is an export already"):
        export_command(ExportRequest(out=tmp_path / "new", checkpoint=folder))


def test_an_export_finds_its_cache_by_digest(
    request_: EvalRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingError, match="name one the model reads.*--cache PATH"):
        export_command(ExportRequest(out=Path("model"), runs=request_.runs))
    shutil.copytree(request_.caches[0], tmp_path / "caches" / "any")
    run = next((request_.runs / "run" / "checkpoints").iterdir())
    checkpoint = Checkpoint.open(run)
    data = {"cache 0": Plan.load(request_.caches[0]).id}
    state = checkpoint.state.model_copy(update={"data": data})
    save_checkpoint(tmp_path / "runs" / "mine" / "checkpoints", state, checkpoint.weights(), {})
    report = export_command(ExportRequest(out=Path("model")))
    assert (report.folder / "config.json").is_file()


@pytest.mark.parametrize(
    "name", ["cam:1.png", "back\\slash.png", "~tilde.png", "caf\udce9.png", "..png", "a b\n.png"]
)
def test_any_name_and_link_the_user_types_is_read(
    exported: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / name).symlink_to(exported / "photo.jpg")
    (tmp_path / "linked").symlink_to(tmp_path / "elsewhere")
    asked = PredictRequest(
        images=tmp_path / "linked" / name, expressions=("the red disc",),
        checkpoint=exported / "model", out=tmp_path / "out", device="cpu", size="tiny",
    )  # fmt: skip
    report = predict_command(asked)
    assert all(path.is_file() for path in report.files) and len(report.files) == 3
    assert "".join(report.lines()).isprintable()
    record = json.loads(report.files[-1].read_text("ascii"))
    assert record["image"].isprintable()


def test_a_photograph_lying_on_its_side_is_answered_upright(exported: Path, tmp_path: Path) -> None:
    upright = Image.open(exported / "photo.jpg").convert("RGB").crop((0, 0, 120, 80))
    upright.save(tmp_path / "upright.png")
    tag = Image.Exif()
    tag[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "lying.png", exif=tag)
    found = {}
    for name in ("upright", "lying"):
        asked = PredictRequest(
            images=tmp_path / f"{name}.png", expressions=("the red disc",),
            checkpoint=exported / "model", out=tmp_path / name, device="cpu", size="tiny",
        )  # fmt: skip
        found[name] = predict_command(asked)
    one, two = found["upright"], found["lying"]
    assert (masks(one)[0] == masks(two)[0]).all()
    for kind in (0, 1):
        assert Image.open(one.files[kind]).tobytes() == Image.open(two.files[kind]).tobytes()
    record = json.loads(two.files[-1].read_text())
    assert (record["size"], record["orientation"], record["frame"]) == ([80, 120], 6, "upright")
    assert "EXIF orientation 6 applied" in two.lines()[0]


def test_photographs_of_one_name_keep_their_own_files(exported: Path, tmp_path: Path) -> None:
    photo = Image.open(exported / "photo.jpg").convert("RGB")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    photo.save(tmp_path / "a" / "x.png")
    photo.crop((0, 0, 120, 80)).save(tmp_path / "b" / "x.png")
    made = {}
    for name in ("a", "b", "a"):
        asked = PredictRequest(
            images=tmp_path / name / "x.png", expressions=("the red disc",),
            checkpoint=exported / "model", out=tmp_path / "out", device="cpu", size="tiny",
        )  # fmt: skip
        made[name] = predict_command(asked).files
    assert [path.name for path in made["a"]] == ["x-1-mask.png", "x-1-overlay.png", "x.json"]
    assert [path.name for path in made["b"]] == ["x~2-1-mask.png", "x~2-1-overlay.png", "x~2.json"]
    assert {*made["a"], *made["b"]} == set((tmp_path / "out").iterdir())
    assert Image.open(made["a"][0]).size == photo.size
    assert Image.open(made["b"][0]).size == (120, 80)


def test_a_photograph_that_is_not_there_is_missing_data(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["predict", str(tmp_path / "no.jpg"), "disc"])
    assert result.exit_code == 3 and "no.jpg: no such photograph" in result.output
