"""Micro-batch and checkpointing by the device's memory; the dry run without weights, data or cache."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from svp.pipeline.errors import ConfigError
from svp.pipeline.precompute.options import Flags, resolve
from svp.train.estimates.gpus import GPUS, Gpu
from svp.train.estimates.memory import CONTEXT, GIB, Line, MemoryEstimate
from svp.train.estimates.sizing import Demand, choose, fixed_bytes, settled, this_device
from svp.train.estimates.typical_batch import typical_image
from svp.train.options import TrainFlags, TrainRequest, resolve_train
from svp.train.recipe import TrainRecipe, parse_train_recipe, split_evenly
from svp.train.reproduce.paper_tables import experiment
from svp.train.runs.dry_run import DryRun, dry_run_command, planned, scaled

STAGES = [{"name": "one", "steps": 2, "warmup": 0}]


def recipe(batch: int = 24, **run: object) -> TrainRecipe:
    return parse_train_recipe({"stages": STAGES, "global_batch": batch, "run": run}, "test")


def one(language_model: int) -> MemoryEstimate:
    return MemoryEstimate(
        (Line("weights", 10 * GIB, ""), Line("language model", language_model, ""))
    )


# 10 GiB stay; an image takes 2 GiB, with checkpointing a quarter, and a third more time.
NEED = Demand(10 * GIB, (one(2 * GIB), one(GIB // 2)), (3e12, 1e12), 10 * GIB)


def gpu(gib: float) -> Gpu:
    return Gpu("test", int(gib * GIB), 100e12, 1e12)


@pytest.mark.parametrize(
    ("gib", "run", "processes", "expected"),
    [
        (200, {}, 1, (24, False)),  # all at once, nothing recomputed
        (200, {}, 4, (6, False)),  # a share of the global batch
        (24, {}, 1, (4, False)),  # 10 + 8 and slack of 21.6; weights read once for four
        (16, {}, 1, (1, False)),  # recomputing for six at once would cost more than it saves
        (13, {}, 1, (1, True)),
        (5, {}, 1, (1, True)),  # nothing fits: the smallest
        (24, {"gradient_checkpointing": True}, 1, (12, True)),
        (24, {"micro_batch": 2}, 1, (2, False)),
        (24, {"micro_batch": 8}, 1, (8, True)),
        (16, {"micro_batch": 3, "gradient_checkpointing": False}, 1, (3, False)),
    ],
)
def test_the_fastest_that_fits(
    gib: float, run: dict[str, object], processes: int, expected: tuple[int, bool]
) -> None:
    found = choose(recipe(**run), NEED, gpu(gib), processes)
    assert (found.micro, found.recompute) == expected
    assert found.need == CONTEXT + int(
        1.05 * (10 * GIB + found.micro * (GIB // 2 if found.recompute else 2 * GIB))
    )
    assert found.fits == (found.need <= gib * GIB)
    assert ("DOES NOT FIT" in found.line()) is not found.fits


def test_what_was_chosen_is_not_in_the_digest() -> None:
    asked = recipe()
    made = settled(asked, choose(asked, NEED, gpu(24)))
    assert (made.run.micro_batch, made.run.gradient_checkpointing) == (4, False)
    assert made.digest() == asked.digest() == recipe(micro_batch=3).digest()
    assert split_evenly(made, 2) == 3


@pytest.mark.parametrize(
    ("batch", "processes", "gib", "largest", "expected"),
    [
        (1, 1, 200, 64, (1, False)),
        (7, 1, 200, 64, (7, False)),
        (7, 1, 24, 64, (1, False)),  # recomputing for seven at once would cost more than it saves
        (7, 1, 13, 64, (1, True)),
        (13, 1, 200, 64, (13, False)),
        (13, 1, 200, 8, (1, False)),  # on a CPU, which takes eight at most
        (7, 7, 200, 64, (1, False)),
        (14, 2, 200, 64, (7, False)),
        (26, 2, 20, 64, (1, False)),
        (21, 3, 200, 64, (7, False)),
        (9, 3, 200, 64, (3, False)),
        (160, 2, 200, 64, (40, False)),  # 80 of a process; 64 does not divide it
    ],
)
def test_what_is_chosen_divides_an_odd_batch(
    batch: int, processes: int, gib: float, largest: int, expected: tuple[int, bool]
) -> None:
    asked = recipe(batch)
    found = choose(asked, NEED, gpu(gib), processes, largest)
    assert (found.micro, found.recompute) == expected
    made = settled(asked, found)
    assert split_evenly(made, processes) * found.micro * processes == batch


@pytest.mark.parametrize(
    ("batch", "processes", "remedy"),
    [
        (1, 2, r"start 1 \(.*--set global_batch=2"),
        (1, 3, r"start 1 \(.*--set global_batch=3"),
        (7, 2, r"start 1 \(.*--set global_batch=8"),
        (7, 3, r"start 1 \(.*--set global_batch=9"),
        (13, 3, r"start 1 \(.*--set global_batch=15"),
        (24, 5, r"start 1 or 2 or 3 or 4 or 6 or 8 \(.*--set global_batch=25"),
    ],
)
@pytest.mark.parametrize("micro", ["auto", 1])
def test_a_batch_that_processes_cannot_share_is_refused(
    batch: int, processes: int, remedy: str, micro: object
) -> None:
    asked = recipe(batch, micro_batch=micro)
    match = f"global_batch {batch} cannot be divided over {processes} processes: {remedy}"
    with pytest.raises(ConfigError, match=match):
        choose(asked, NEED, gpu(200), processes)
    with pytest.raises(ConfigError, match=match):
        split_evenly(asked, processes)


def test_a_micro_batch_of_ones_own_must_divide_too() -> None:
    with pytest.raises(ConfigError, match=r"a micro_batch that divides 7 \(.*micro_batch=auto"):
        choose(recipe(14, micro_batch=2), NEED, gpu(200), 2)


def test_what_each_level_of_zero_divides() -> None:
    """Four processes; weights stay whole on each below level 3, DDP has buckets of the gradients."""
    sizes = {
        "weights": 800,
        "gradients": 400,
        "autocast copies": 200,
        "optimizer": 1200,
        "batch": 9,
    }
    found = MemoryEstimate(tuple(Line(what, size, "") for what, size in sizes.items()))
    assert [fixed_bytes(found, 1, level) for level in range(4)] == [2600] * 4
    assert [fixed_bytes(found, 4, level) for level in range(4)] == [3000, 1700, 1400, 650]


def test_this_machines_memory_is_shared_by_its_processes() -> None:
    whole, half = (this_device(torch.device("cpu"), n).memory for n in (1, 2))
    assert half == whole // 2 > 0


def test_an_estimate_of_several_images() -> None:
    found = scaled(one(2 * GIB), 3)
    assert found.device == CONTEXT + 16 * GIB + int(0.05 * 16 * GIB)
    assert any("3 x (" in line for line in found.lines())


@pytest.mark.parametrize(
    ("size", "channels", "sam"),
    [("tiny", 96, "tiny"), ("small", 768, "vit_t"), ("paper", 1024, "vit_h")],
)
def test_plans_without_a_cache(size: str, channels: int, sam: str) -> None:
    asked, _ = resolve_train(size, None, TrainFlags(), (), weights=False)
    plan = planned(asked, size)
    assert (plan.channels, plan.recipe.superpixels.model) == (channels, sam) and plan.sam
    assert planned(asked, None) == plan
    image = typical_image(asked, plan, 7)
    assert image.visual.valid is not None and int(image.visual.valid.sum()) == 7
    assert len(image.seg_row) == asked.data.sentences_per_image
    assert (image.labels >= 0).sum() == 8 * len(image.seg_row)


@pytest.mark.parametrize(
    "name", ["CLIP + DINOv2", "DINOv2 last few layers", "CLIP shallow + deep", "DINOv2 last layer"]
)
def test_the_typical_image_has_a_map_for_every_source_of_table_7(name: str) -> None:
    row = experiment("table7", "paper").row(name)
    asked, _ = resolve_train("paper", None, TrainFlags(), row.train, weights=False)
    flags = Flags(sam_weights="random", encoder_weights="random")
    made, _ = resolve("paper", None, flags, row.cache, Path())
    plan = planned(asked, "paper")
    plan = replace(plan, recipe=plan.recipe.model_copy(update={"features": made.features}))
    multi = typical_image(asked, plan).visual.multi
    sources = int(str(asked.model.projector.options.get("sources", 4)))
    assert multi is not None and multi.shape == (1, plan.patches, sources * plan.channels)


def dry(size: str, *overrides: str, projector: str | None = None) -> DryRun:
    flags = TrainFlags(projector=projector)
    return dry_run_command(TrainRequest(size=size, overrides=overrides, flags=flags, device="cpu"))


def test_small_without_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers stand for 32: sizes of the rest are the recipe's."""
    monkeypatch.chdir(tmp_path)
    found = dry("small", "model.shape={layers: 2}")
    table = found.tables["align"]
    rows = {row.part: row.trainable for row in table.rows}
    assert table.projector == {"sspe": 3_555_968, "ssa": 23_633_664, "mlp": 9_967_616}
    assert rows["embedding"] + rows["lm_head"] == 2 * 3 * 4096, "rows of the special tokens only"
    assert set(found.gpus) and {p.gpu for p in found.gpus} == set(GPUS.values())
    assert all(p.hours > 0 and p.choice.fits for p in found.gpus)
    assert found.recipe.run.micro_batch == found.shown.choice.micro
    text = "\n".join(found.lines())
    for part in ("no cache named: 40 superpixels", "dinov2-base, SAM vit_t", "optimizer (host)",
                 "RTX 3090: micro-batch", "H200: micro-batch", "25% of the dense"):  # fmt: skip
        assert part in text
    assert not list(tmp_path.iterdir())


def test_tiny_is_measured_and_its_projector_is_its_own() -> None:
    found = dry("tiny")
    assert found.tables["align"].projector == {"sspe": 38_368, "ssa": 224_448, "mlp": 28_928}
    assert found.hours is not None and 0 < found.hours and not found.gpus


@pytest.mark.parametrize("name", ["tokenpacker", "pvtc"])
def test_every_kind_of_projector(name: str) -> None:
    """Inputs a projector reads are in the assumed cache."""
    found = dry("tiny", projector=name)
    assert found.length.most in (9, 16, 25, 64, 81)


def test_the_whole_language_model_costs_what_it_costs() -> None:
    change = (
        "stages.0={name: all, steps: 1, warmup: 0, trains: [projector, lm, embedding, lm_head]}"
    )
    short = "model.shape={layers: 1}"
    frozen, whole = dry("paper", short), dry("paper", short, change, "stages.1.lora=false")
    rows = {row.part: row for row in whole.tables["all"].rows}
    assert rows["lm"].trainable == rows["lm"].parameters > 200e6
    assert rows["lm"].dtype == "float32"
    assert frozen.tables["align"].trainable < whole.tables["all"].trainable


def test_lora_beside_the_whole_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="lora with lm in `trains`"):
        parse_train_recipe({"stages": [{**STAGES[0], "lora": True, "trains": ["lm"]}]}, "test")


def test_time_grows_with_small_batches_and_recomputation() -> None:
    one_gpu = gpu(24)
    assert NEED.seconds(1, False, one_gpu) > NEED.seconds(4, False, one_gpu)
    assert NEED.seconds(4, True, one_gpu) > NEED.seconds(4, False, one_gpu)
    half = replace(one_gpu, peak=one_gpu.peak / 2)
    assert NEED.seconds(24, False, half) > 1.9 * 3e12 / (0.25 * one_gpu.peak)
