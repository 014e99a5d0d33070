"""Evaluation: what is asked, what is counted, and that ranks and batches change nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from support import eval_world
from support.fresh import FRESH
from svp.model.inference.shared_prefix import predict_shared
from svp.model.ris import RisModel
from svp.pipeline.errors import CacheError, DataError, WeightsError
from svp.pipeline.masks.rle import decode, encode
from svp.train.data.collate import CachedVisuals
from svp.train.data.prompts import fixed_turn
from svp.train.evaluation.evaluate import Settings, by_image, cut, evaluate, to_batch
from svp.train.evaluation.protocols import Example, Unit, examples, plan
from svp.train.evaluation.results import Row

IDS = range(3, 16)  # 13 images, 30 sentences: neither is a multiple of 2, 3 or the batch
World = tuple[list[Example], CachedVisuals]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return eval_world.world(tmp_path_factory.mktemp("world"), IDS)


@pytest.fixture(scope="module")
def model() -> RisModel:
    return eval_world.model()


def run(world: World, model: RisModel, protocol: str = "full", **options: int) -> list[Row]:
    generate, batch = bool(options.pop("generate", 0)), options.pop("batch", 4)
    units = plan(world[0], protocol, generate=generate, **options)  # type: ignore[arg-type]
    settings = Settings(batch=batch)
    return evaluate(model, units, eval_world.vocabulary(), world[1], settings)


def alone(world: World, model: RisModel, unit: Unit) -> torch.Tensor:
    """The logits of a dialogue that is in a batch of its own."""
    batch = to_batch([unit], eval_world.vocabulary(), world[1]).to("cpu", torch.float32)
    return model.predict(batch)[0]


def test_full_measures_every_sentence_once(world: World, model: RisModel) -> None:
    rows = run(world, model)
    said = {(e.ref_id, e.sent_id): e for item in world[0] for e in item.expressions}
    assert len(rows) == len(said) == len({row.key for row in rows})
    for row in rows:
        predicted, target = decode(row.mask), decode(said[row.ref_id, row.sent_id].mask)
        assert row.intersection == (predicted & target).sum()
        assert row.union == (predicted | target).sum()
        assert row.target == target.sum() and row.has_seg
        assert row.tokens == 1 + row.image_id % 6  # superpixels of that image
    assert 0 < np.mean([row.iou for row in rows]) < 1


def test_an_ignored_region_is_in_no_count(world: World, model: RisModel) -> None:
    """As LISA's intersectionAndUnionGPU with ignore_index: neither for nor against a prediction."""
    item, rng = world[0][0], np.random.default_rng(1)
    plain = {row.sent_id: row for row in run(([item], world[1]), model)}
    regions: dict[int, np.ndarray[tuple[int, ...], np.dtype[np.bool_]]] = {}
    said = []
    for one in item.expressions:
        region = (rng.random((item.entry.height, item.entry.width)) < 0.4) & (decode(one.mask) == 0)
        regions[one.sent_id] = region
        said.append(replace(one, ignore=encode(region)))
    rows = run(([replace(item, expressions=tuple(said))], world[1]), model)
    assert len(rows) == len(plain)
    for row, one in zip(rows, sorted(said, key=lambda e: (e.ref_id, e.sent_id)), strict=True):
        label = np.where(regions[row.sent_id], 255, decode(one.mask))
        output = np.where(label == 255, 255, decode(plain[row.sent_id].mask))
        both = ((output == 1) & (label == 1)).sum()
        assert row.intersection == both
        assert row.union == (output == 1).sum() + (label == 1).sum() - both
        assert row.union <= plain[row.sent_id].union
    assert sum(r.union for r in rows) < sum(r.union for r in plain.values())


def test_masks_are_those_of_the_model_asked_alone(world: World, model: RisModel) -> None:
    rows = {row.key: row for row in run(world, model)}
    for unit in plan(world[0], "full")[::5]:
        with torch.inference_mode():
            mask = alone(world, model, unit)[0] > 0
        entry, said = unit.example.entry, unit.asked[0]
        row = rows[0, entry.dataset, entry.image_id, said.ref_id, said.sent_id]
        assert (decode(row.mask) != mask.numpy()).sum() <= 1  # rounding of one border pixel


def ranks(place: str, rank: int, size: int, cache: str) -> None:
    """One process of a distributed evaluation; writes what it got."""
    store = f"file://{place}/store"
    torch.distributed.init_process_group("gloo", store, rank=rank, world_size=size)
    reader = eval_world.CacheReader(cache)
    items = examples(eval_world.make_source("d", IDS), [reader])
    rows = run((items, CachedVisuals([reader], {"masks"})), eval_world.model())
    text = "\n".join(row.model_dump_json() for row in rows)
    Path(place, f"{rank}.txt").write_text(text)
    torch.distributed.destroy_process_group()


@pytest.mark.timeout(900)
def test_ranks_give_the_same_bytes(world: World, model: RisModel, tmp_path: Path) -> None:
    cache = str(world[1].caches[0].path)
    alone = "\n".join(row.model_dump_json() for row in run(world, model))
    for size in (2, 3):
        place = tmp_path / str(size)
        place.mkdir()
        made = [FRESH.Process(target=ranks, args=(str(place), r, size, cache)) for r in range(size)]
        for process in made:
            process.start()
        for process in made:
            process.join(240)
        assert [process.exitcode for process in made] == [0] * size
        assert {(place / f"{rank}.txt").read_text() for rank in range(size)} == {alone}


def test_glamm_draws_by_image_alone(world: World) -> None:
    items = world[0]
    units = plan(items, "glamm", seed=3, repeats=2)
    assert len(units) == 2 * len(items) and all(1 <= len(u.asked) <= 3 for u in units)
    assert all(len({e.sent_id for e in u.asked}) == len(u.asked) for u in units)
    backwards = plan(items[::-1], "glamm", seed=3, repeats=2)
    assert sorted(map(repr, units)) == sorted(map(repr, backwards))
    first, second = units[: len(items)], units[len(items) :]
    assert [u.turns for u in first] != [u.turns for u in second]
    assert plan(items, "glamm", seed=4)[0].turns != first[0].turns or (
        plan(items, "glamm", seed=4)[3].turns != first[3].turns
    )


def test_glamm_keeps_true_answers_in_context(world: World, model: RisModel) -> None:
    open_units = plan(world[0], "glamm", generate=True)
    forced = plan(world[0], "glamm")
    assert len(open_units) == sum(len(u.asked) for u in forced)
    for unit in open_units:
        assert unit.turns[-1].answer is None and len(unit.asked) == 1
        assert all("[SEG]" in (turn.answer or "") for turn in unit.turns[:-1])
    assert {u.asked[0].sent_id for u in open_units} == {e.sent_id for u in forced for e in u.asked}
    assert len(run(world, model, "glamm")) == len(open_units)


def test_without_seg_a_sentence_stays_in_both_metrics(world: World) -> None:
    mute = eval_world.model()
    with torch.no_grad():
        mute.lm.lm_head.weight.zero_()  # argmax is id 0: never [SEG]
    rows = run(world, mute, generate=1)
    assert len(rows) == sum(len(item.expressions) for item in world[0])
    for row in rows:
        assert (row.has_seg, row.intersection, row.union) == (False, 0, row.target)
        assert not decode(row.mask).any()


def test_generation_that_says_seg_at_once_gives_masks(world: World, model: RisModel) -> None:
    seg = eval_world.vocabulary().seg
    eager = eval_world.model()
    head = torch.nn.Linear(16, eval_world.vocabulary().size)
    torch.nn.init.zeros_(head.weight)
    with torch.no_grad():
        head.bias.zero_()[seg] = 1
    eager.lm.lm_head = head
    rows = run(world, eager, generate=1)
    assert all(row.has_seg for row in rows) and any(row.union > row.target for row in rows)


def test_shuffled_orders_leave_the_first_alone(world: World) -> None:
    plain, mixed = plan(world[0], "full"), plan(world[0], "full", repeats=3, shuffle=True)
    assert mixed[: len(plain)] == plain
    at = next(k for k, unit in enumerate(plain) if unit.example.entry.image_id == 5)
    covers = []
    for unit in mixed[at :: len(plain)]:
        visual = to_batch([unit], eval_world.vocabulary(), world[1]).visual
        assert visual.cover is not None
        covers.append(visual.cover[0])
    assert len(covers) == 3 and len(covers[0]) == 6  # superpixels of image 5
    for cover in covers[1:]:
        assert not cover.equal(covers[0])
        assert sorted(cover.tolist()) == sorted(covers[0].tolist())


def test_logits_that_are_not_finite_stop_the_run(world: World) -> None:
    broken = eval_world.model()
    with torch.no_grad():
        broken.to_prompt.get_parameter("2.bias")[0] = float("nan")
    with pytest.raises(WeightsError, match="image d/3: mask logits are NaN"):
        run(world, broken)


def test_images_must_be_those_of_the_cache(world: World, tmp_path: Path) -> None:
    caches = list(world[1].caches)
    with pytest.raises(DataError, match="image d/2 is not in .*--from-cache"):
        examples(eval_world.make_source("d", [2, 3]), caches)
    other = eval_world.make_source("d", [3])
    wide = {k: replace(a, segmentation=[], width=99) for k, a in other.annotations.items()}
    with pytest.raises(DataError, match="12x99 in the data set, 12x10 in"):
        examples(replace(other, annotations=wide), caches)
    missing = eval_world.write_cache(tmp_path / "part", [3, 4, 5, 6, 7])
    eval_world.drop_shard(missing.path, 1)
    with pytest.raises(CacheError, match="image 7 .*not computed yet"):
        examples(eval_world.make_source("d", [7]), [eval_world.CacheReader(missing.path)])


def test_limit_takes_the_first_images(world: World) -> None:
    items = examples(eval_world.make_source("d", IDS), world[1].caches, limit=2)
    assert [item.entry.image_id for item in items] == [3, 4]
    with pytest.raises(DataError, match="no sentence"):
        examples(eval_world.make_source("d", []), world[1].caches)


@pytest.mark.parametrize(
    ("state", "prompt"),
    [("predicting", "projected"), ("at_seg", "projected"), ("predicting", "pointed")],
)
def test_a_shared_start_gives_the_masks_of_each_dialogue_alone(
    world: World, state: str, prompt: str
) -> None:
    model = eval_world.model()
    model.mask_state, model.mask_prompt = state, prompt  # type: ignore[assignment]
    compared = 0
    for batch in cut(by_image(plan(world[0], "full")), 5):
        given = to_batch(batch, eval_world.vocabulary(), world[1], once=True)
        with torch.inference_mode():
            together = predict_shared(model, given.to("cpu", torch.float32))
            for unit, logits in zip(batch, together, strict=True):
                torch.testing.assert_close(logits, alone(world, model, unit), rtol=1e-4, atol=1e-4)
                compared += len(batch) > 1
    assert compared > 10


def test_dialogues_of_several_turns_share_their_start(world: World, model: RisModel) -> None:
    item = max(world[0], key=lambda item: len(item.expressions))
    turns = [fixed_turn(e.text) for e in item.expressions]
    units = [
        Unit(item, 0, item.expressions[:n], tuple(turns[:n])) for n in range(1, len(turns) + 1)
    ]
    given = to_batch(units, eval_world.vocabulary(), world[1], once=True)
    with torch.inference_mode():
        found = predict_shared(model, given.to("cpu", torch.float32))
        for unit, logits in zip(units, found, strict=True):
            torch.testing.assert_close(logits, alone(world, model, unit), rtol=1e-4, atol=1e-4)


def test_images_of_one_dialogue_are_mixed_and_others_are_not(world: World) -> None:
    full, glamm = plan(world[0], "full"), plan(world[0], "glamm")
    for batch in cut(by_image(full), 3):
        assert len({unit.look for unit in batch}) == 1 and len(batch) <= 3
    assert [u for batch in cut(by_image(full), 3) for u in batch] == full
    assert [len(batch) for batch in cut(by_image(glamm), 4)] == [4, 4, 4, 1]
