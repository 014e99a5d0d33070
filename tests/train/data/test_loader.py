"""The loader: batches hold what the cache holds, in an order ranks and threads cannot change."""

import random
import threading
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from support.loader_world import (
    make_loader,
    make_source,
    make_table,
    target,
    vocabulary,
    write_cache,
)
from svp.model.batch import Batch, Visual
from svp.pipeline.cache import CacheReader
from svp.pipeline.errors import CacheError, ConfigError, DataError, PlanMismatchError
from svp.train.data.build_table import open_table
from svp.train.data.collate import CachedVisuals, Item, make_batch
from svp.train.data.dialogues import build_dialogue
from svp.train.data.expression_table import ExpressionTable
from svp.train.data.loader import CursorState, Draws, Loader, RankSlice, Step, Stream
from svp.train.data.prompts import fixed_turn
from svp.train.data.sampler import SampleRef

World = tuple[ExpressionTable, CacheReader]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_table(tmp_path_factory.mktemp("loader"))


def steps(loader: Loader, count: int, cursor: CursorState | None = None) -> list[Step]:
    iterator = loader.steps(cursor or loader.start())
    try:
        return list(islice(iterator, count))
    finally:
        iterator.close()


def tensors(batch: Batch) -> list[Tensor]:
    visual = batch.visual
    parts = [visual.patches, visual.cover, visual.masks, visual.valid, visual.cls, visual.multi]
    text = [batch.ids, batch.lengths, batch.labels, batch.slot, batch.seg_row, batch.seg_col]
    return [x for x in (*parts, *text, batch.sam, *(batch.packed or ())) if x is not None]


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True)) and (
        (a.sent_ids, a.sizes) == (b.sent_ids, b.sizes)
    )


def test_it_is_the_stream_the_loop_asks_for(made: World) -> None:
    stream: Stream = make_loader(*made)
    assert stream.identity == {"table": made[0].digest, "cache 0": made[1].plan.id}


def test_a_batch_holds_what_the_cache_holds(made: World) -> None:
    table, cache = made
    loader = make_loader(table, cache, micro=5)
    step = steps(loader, 1)[0]
    assert [len(b.sizes) for b in step.batches] == [len(names) for names in step.images]
    assert len(step.batches) == 3 and sum(map(len, step.images)) == 12
    rows = {table.entry(i).name: table.entry(i).row for i in range(len(table))}
    for batch, names in zip(step.batches, step.images, strict=True):
        visual = batch.visual
        assert visual.cover is not None and visual.masks is not None and visual.valid is not None
        assert visual.cls is not None and visual.multi is not None
        for b, name in enumerate(names):
            row, n = rows[name], int(cache.counts[rows[name]])
            assert (visual.patches[b].numpy() == cache.features(row)).all()
            assert (batch.sam[b].numpy() == cache.sam(row)).all()
            assert (visual.cls[b].numpy() == cache.cls(row)).all()
            assert (visual.multi[b].numpy() == np.concatenate(cache.layers(row), axis=1)).all()
            assert visual.valid[b].tolist() == [k < n for k in range(visual.valid.shape[1])]
            assert not visual.cover[b, n:].any() and not visual.masks[b, n:].any()


def test_superpixels_are_shuffled_together(made: World) -> None:
    table, cache = made
    entry = table.entry(10)
    small = np.unpackbits(cache.sspe_masks(entry.row), axis=1, count=20)
    pairs = {(c.tobytes(), m.tobytes()) for c, m in zip(cache.cover(entry.row), small, strict=True)}
    orders = set()
    for key in [None, *range(12)]:
        visual, _, _ = CachedVisuals([cache], {"masks"}).read([entry], [key])
        assert visual.cover is not None and visual.masks is not None
        rows = visual.cover[0].numpy(), visual.masks[0].flatten(1).numpy()
        assert {(c.tobytes(), m.tobytes()) for c, m in zip(*rows, strict=True)} == pairs
        orders.add(rows[0].tobytes())
    assert len(orders) > 4


def test_without_a_key_superpixels_descend_in_area(made: World) -> None:
    table, cache = made
    for i in range(len(table)):
        entry = table.entry(i)
        visual, _, _ = CachedVisuals([cache], {"masks"}).read([entry], [None])
        assert visual.cover is not None
        area = {
            c.tobytes(): a
            for c, a in zip(cache.cover(entry.row), cache.areas(entry.row), strict=True)
        }
        found = [area[c.numpy().tobytes()] for c in visual.cover[0]]
        assert found == sorted(found, reverse=True)


def test_targets_sentences_and_text_belong_together(made: World) -> None:
    table, cache = made
    vocab = vocabulary()
    for step in steps(make_loader(table, cache), 6):
        for batch, names in zip(step.batches, step.images, strict=True):
            assert batch.ids[batch.seg_row, batch.seg_col].eq(vocab.seg).all()
            for b, (name, sent_ids, masks) in enumerate(
                zip(names, batch.sent_ids, batch.targets(), strict=True)
            ):
                image_id = int(name.split("/")[1])
                assert len(sent_ids) == min(3, 1 + image_id % 4) == int((batch.seg_row == b).sum())
                assert len(set(sent_ids)) == len(sent_ids)
                text = vocab.decode(batch.ids[b, : int(batch.lengths[b])].tolist())
                for sent_id, mask in zip(sent_ids, masks, strict=True):
                    assert sent_id // 100 == image_id
                    assert (mask.numpy() == target(10 * image_id + sent_id % 100 % 2)).all()
                    assert f"disc {image_id} number {sent_id % 100}" in text
                order = [text.index(f"number {s % 100}") for s in sent_ids]
                assert order == sorted(order)  # k-th [SEG], k-th sentence, k-th target


def test_every_visit_draws_anew_and_again_the_same(made: World) -> None:
    loader = make_loader(*made)
    entry = next(i for i in range(37) if made[0].entry(i).image_id % 4 == 3)
    items = [loader.sample(SampleRef(entry, visit)) for visit in range(20)]
    assert items == [make_loader(*made).sample(SampleRef(entry, visit)) for visit in range(20)]
    assert len({tuple(s.sent_id for s in item.said) for item in items}) > 5
    assert len({item.dialogue.ids for item in items}) == 20
    assert len({item.key for item in items}) == 20
    other = make_loader(*made, seed=6)
    assert items != [other.sample(SampleRef(entry, visit)) for visit in range(20)]


def samples(step: Step) -> list[tuple[str, tuple[int, ...]]]:
    """Image and sentences of each sample; lengths decide in which micro-batch it is."""
    found = zip(step.images, step.batches, strict=True)
    return sorted(one for names, b in found for one in zip(names, b.sent_ids, strict=True))


def test_threads_and_micro_batches_change_nothing(made: World) -> None:
    one = steps(make_loader(*made, micro=1, threads=1), 4)
    for micro, threads in ((1, 3), (4, 2)):
        other = steps(make_loader(*made, micro=micro, threads=threads), 4)
        assert [s.cursor for s in other] == [s.cursor for s in one]
        assert [samples(s) for s in other] == [samples(s) for s in one]
    again = steps(make_loader(*made, micro=1, threads=3), 4)
    for a, b in zip(one, again, strict=True):
        assert all(same(x, y) for x, y in zip(a.batches, b.batches, strict=True))
    assert all(b.known is not None for s in one for b in s.batches), "threads find out the layout"


def test_killed_and_resumed_with_any_world_size_the_stream_goes_on(made: World) -> None:
    rng = random.Random(0)
    whole = [sum(s.images, ()) for s in steps(make_loader(*made, micro=12), 10)]
    for world in (1, 2, 3, 4, 6, 12, 5):
        killed = rng.randint(0, 9)
        cursor = steps(make_loader(*made), killed)[-1].cursor if killed else None
        ranks = [
            steps(make_loader(*made, rank=r, world=world, micro=2), 10 - killed, cursor)
            for r in range(world)
        ]
        for k, step in enumerate(whole[killed:]):
            for r, rank in enumerate(ranks):
                assert sorted(sum(rank[k].images, ())) == sorted(step[r::world])
            assert len({str(rank[k].cursor) for rank in ranks}) == 1


def test_resuming_twice_and_at_step_zero(made: World) -> None:
    loader = make_loader(*made)
    three = steps(loader, 3)
    for _ in range(2):
        again = steps(loader, 1, three[1].cursor)[0]
        assert all(same(a, b) for a, b in zip(again.batches, three[2].batches, strict=True))
    zero = steps(loader, 1, loader.start())[0]
    assert all(same(a, b) for a, b in zip(zero.batches, three[0].batches, strict=True))


def test_a_cursor_of_other_data_is_refused(made: World, tmp_path: Path) -> None:
    cursor = make_loader(*made).start()
    other = make_table(tmp_path, first=5, second=3)
    with pytest.raises(PlanMismatchError, match=r"caches: .* table: "):
        make_loader(*other).steps(cursor)
    with pytest.raises(PlanMismatchError, match="seed: 5 there, 6 here"):
        make_loader(*made, seed=6).steps(cursor)


def test_windows_of_shards_resume_and_split_as_any_order_does(made: World) -> None:
    """30 and 7 images over shards of 4 rows; ids are in the order of rows."""
    table, cache = made
    loader = make_loader(table, cache, order="window:2", micro=12)
    whole = steps(loader, 10)
    resumed = steps(make_loader(table, cache, order="window:2", micro=12), 3, whole[3].cursor)
    for one, other in zip(whole[4:7], resumed, strict=True):
        assert all(same(a, b) for a, b in zip(one.batches, other.batches, strict=True))
    ranks = [make_loader(table, cache, order="window:2", rank=r, world=2) for r in range(2)]
    shares = [[n for s in steps(r, 2) for names in s.images for n in names] for r in ranks]
    assert sorted([*shares[0], *shares[1]]) == sorted(
        n for s in whole[:2] for names in s.images for n in names
    )
    # The first 8 draws of set aa are those of two shards of four rows.
    names = [n for s in whole for part in s.images for n in part if n.startswith("aa/")]
    shards = [(int(name.removeprefix("aa/")) - 1) // 4 for name in names]
    assert len(set(shards[:8])) == 2 and len(set(shards[:30])) == 8
    assert sorted(names[:30]) == sorted(f"aa/{i}" for i in range(1, 31))
    with pytest.raises(PlanMismatchError, match="order: global there, window:2 here"):
        loader.steps(make_loader(table, cache).start())


def test_batches_stay_valid_and_threads_end(made: World) -> None:
    before = threading.active_count()
    loader = make_loader(*made)
    iterator = loader.steps(loader.start())
    held = [next(iterator) for _ in range(6)]
    copies = [[x.clone() for x in tensors(b)] for s in held for b in s.batches]
    for _ in range(6):
        next(iterator)
    now = [tensors(b) for s in held for b in s.batches]
    assert all(
        torch.equal(x, y)
        for a, b in zip(copies, now, strict=True)
        for x, y in zip(a, b, strict=True)
    )
    iterator.close()
    assert threading.active_count() == before


def test_a_damaged_row_stops_with_the_image_and_the_file(tmp_path: Path) -> None:
    table, cache = make_table(tmp_path, first=8, second=2)
    files = (cache.path / "features").glob("*/dino/c/**/*")
    shard = next(f for f in files if f.is_file())
    data = bytearray(shard.read_bytes())
    for at in range(0, 4 * (96 + 4), 20):
        data[at] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CacheError, match=r"image \d+ \(row \d+\): .*dino.*checksum"):
        steps(make_loader(table, CacheReader(cache.path, "always")), 3)


def test_a_sample_that_cannot_be_made_names_its_image(made: World) -> None:
    table, cache = made
    loader = Loader(
        table, CachedVisuals([cache], ()), vocabulary(), Draws(seed=1, global_batch=2),
        RankSlice(micro_batch=2), max_ids=70,
    )  # fmt: skip
    with pytest.raises(DataError, match=r"(aa|bb)/\d+: a dialogue of \d turns"):
        steps(loader, 40)


def test_a_share_without_images_is_refused(made: World) -> None:
    for rank, world in ((0, 13), (2, 2), (-1, 2)):
        with pytest.raises(ConfigError, match="rank"):
            make_loader(*made, rank=rank, world=world)


def test_a_cache_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    good = write_cache(tmp_path / "good", range(1, 4))
    bare = write_cache(tmp_path / "bare", range(1, 4), sam=False)
    wide = write_cache(tmp_path / "wide", range(1, 4), channels=16)
    with pytest.raises(ConfigError, match="does not hold the SAM image embedding"):
        CachedVisuals([bare], {"masks"})
    with pytest.raises(ConfigError, match=f"{wide.plan.id[:12]}.*{good.plan.id[:12]}"):
        CachedVisuals([good, wide], {"masks"})
    with pytest.raises(ConfigError, match="no cache holds .* depth"):
        CachedVisuals([good], {"depth"})


def test_a_batch_for_evaluation_has_one_turn_and_may_lack_targets(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "cache", range(1, 4))
    table = open_table(tmp_path / "t", [make_source("aa", [3])], [cache], training=False)
    entry, said = table.entry(0), table.sentences(0)
    items = [Item(entry, [s], build_dialogue(vocabulary(), [fixed_turn(s.text)])) for s in said]
    batch = make_batch(None, CachedVisuals([cache], {"masks"}), items, vocabulary().pad)
    assert batch.packed is None and len(batch.seg_row) == 4
    assert batch.sent_ids == ((300,), (302,), (301,), (303,))  # by ref, then sentence


def test_live_visuals_can_take_the_caches_place(made: World) -> None:
    table, cache = made
    cached = CachedVisuals([cache], {"masks"})

    class Live:
        """Another source of the same values, in float32."""

        square = cached.square

        def read(
            self, entries: Sequence[object], keys: Sequence[int | None]
        ) -> tuple[Visual, Tensor, tuple[tuple[int, int], ...]]:
            visual, sam, sizes = cached.read(entries, keys)  # type: ignore[arg-type]
            return visual.map(lambda x: x.float() if x.is_floating_point() else x), sam, sizes

    loader = Loader(
        table, Live(), vocabulary(), Draws(seed=5, global_batch=4), RankSlice(micro_batch=4)
    )
    live = steps(loader, 2)[1].batches[0]
    from_cache = steps(make_loader(table, cache, global_batch=4, micro=4), 2)[1].batches[0]
    assert live.visual.patches.dtype == torch.float32
    assert torch.equal(live.visual.patches, from_cache.visual.patches.float())
    assert torch.equal(live.ids, from_cache.ids)


def test_a_damaged_cursor_is_an_error_of_ours(tmp_path: Path) -> None:
    loader = make_loader(*make_table(tmp_path))
    good = loader.start()
    for wrong in ({**good, "seed": "x"}, {**good, "more": 1}, {}):
        with pytest.raises(CacheError, match="data cursor is damaged: "):
            loader.steps(wrong)
