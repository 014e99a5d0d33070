"""The expression table: what is joined, what is left out and said, and what damage does."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from support.loader_world import SIZE, make_source, make_table, target, write_cache
from svp.pipeline.datasets import Source
from svp.pipeline.errors import CacheError, DataError
from svp.train.data import target_packer
from svp.train.data.build_table import open_table
from svp.train.data.expression_table import Entry, ExpressionTable, Said

EMPTY = "1 sentence left out for an empty mask: --set model.rejection=true trains the answer that there is no such object"


def mask_of(table: ExpressionTable, entry: Entry, said: Said) -> NDArray[np.bool_]:
    out = np.empty(entry.target_bytes, np.uint8)
    table.target(said, out)
    return np.unpackbits(out, count=SIZE[0] * SIZE[1]).reshape(SIZE).astype(bool)


def test_entries_sentences_and_targets(tmp_path: Path) -> None:
    table, cache = make_table(tmp_path)
    assert table.datasets == ["aa", "bb"] and table.sizes == [30, 7] and len(table) == 37
    assert table.caches == [cache.plan.id]
    names = [table.entry(i).name for i in range(37)]
    assert names == [f"aa/{i}" for i in range(1, 31)] + [f"bb/{i}" for i in range(5, 12)]
    for i in range(37):
        entry, said = table.entry(i), table.sentences(i)
        assert cache.ids[entry.row] == entry.image_id and entry.cache == 0
        assert sorted(one.sent_id for one in said) == [
            100 * entry.image_id + k for k in range(1 + entry.image_id % 4)
        ]
        for one in said:
            assert one.text == f"red disc {entry.image_id} number {one.sent_id % 100}"
            assert (mask_of(table, entry, one) == target(one.ann_id)).all()
    assert table.sentence_count == sum(len(table.sentences(i)) for i in range(37))


def test_equal_masks_are_stored_once(tmp_path: Path) -> None:
    table, _ = make_table(tmp_path)
    stored = sum(f.stat().st_size for f in table.path.glob("targets-*.bin"))
    objects = {one.ann_id for i in range(37) for one in table.sentences(i)}
    assert stored == 15 * len(objects)  # 12 x 10 bits; `bb` shows the same objects as `aa`


def test_a_finished_table_is_opened_not_made(
    tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    first, _ = make_table(tmp_path)
    stamps = {f: f.stat().st_mtime_ns for f in first.path.iterdir()}
    cache = write_cache(tmp_path / "again", range(1, 31))
    sources = [make_source("aa", range(1, 31)), make_source("bb", range(5, 12))]
    second = open_table(tmp_path / "tables", sources, [cache], training=True)
    assert second.digest == first.digest
    assert logged.messages == ["packing the masks of 94 sentences (once)"]
    assert {f: f.stat().st_mtime_ns for f in first.path.iterdir()} == stamps


def test_a_finished_table_tells_the_notices_of_today(tmp_path: Path) -> None:
    """They name folders, which may be others than when the table was made."""
    cache = write_cache(tmp_path / "cache", range(1, 9))
    tables = []
    for place in ("here", "there"):
        source = make_source("aa", range(1, 9), empty=[5])
        source.notices.append(f"images: {place}")
        tables.append(open_table(tmp_path / "t", [source], [cache], training=True))
    first, second = tables
    assert second.path == first.path and "images: here" in first.notes
    assert "images: there" in second.notes and "images: here" not in second.notes
    assert EMPTY in second.notes


def test_boxes_are_nothing_to_train_on(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "cache", range(1, 9))
    source = make_source("aa", range(1, 9))
    key, item = next(iter(source.annotations.items()))
    boxed = replace(
        source, annotations={**source.annotations, key: replace(item, box=(1, 2, 3, 4))}
    )
    with pytest.raises(DataError, match="aa.*: sentence [0-9]+ has a box and no mask"):
        open_table(tmp_path / "t", [boxed], [cache], training=True)
    assert len(open_table(tmp_path / "t", [boxed], [cache], training=False)) > 0


def test_other_data_make_another_table(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "cache", range(1, 9))
    source = make_source("aa", range(1, 9))
    other = replace(source, sentences=source.sentences[1:])
    recoloured = replace(
        source,
        annotations={key: replace(a, segmentation=[]) for key, a in source.annotations.items()},
    )
    other_cache = write_cache(tmp_path / "other", range(1, 10))
    tables = [
        open_table(tmp_path / "t", [source], [cache], training=True),
        open_table(tmp_path / "t", [other], [cache], training=True),
        open_table(tmp_path / "t", [source], [other_cache], training=True),
        open_table(tmp_path / "t", [source], [cache], training=False),
        open_table(tmp_path / "t", [recoloured], [cache], training=False),
    ]
    assert len({table.digest for table in tables}) == 5


def test_many_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_packer, "PART_BYTES", 40)  # two targets a file
    table, _ = make_table(tmp_path)
    assert len(list(table.path.glob("targets-*.bin"))) > 10
    for i in range(len(table)):
        for one in table.sentences(i):
            assert (mask_of(table, table.entry(i), one) == target(one.ann_id)).all()


def test_two_caches_are_one(tmp_path: Path) -> None:
    caches = [write_cache(tmp_path / "a", range(1, 6)), write_cache(tmp_path / "b", range(4, 12))]
    table = open_table(tmp_path / "t", [make_source("aa", range(1, 12))], caches, training=True)
    places = [(table.entry(i).cache, table.entry(i).row) for i in range(len(table))]
    assert places == [(0, i) for i in range(5)] + [(1, i) for i in range(2, 8)]


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "cache", range(1, 9), bad=[3])
    source = make_source("aa", range(1, 11), empty=[5])
    source.notices.append("leak: aa train shares 2 images (2 refs) with bb val")
    with pytest.raises(DataError, match=r"2 images .* first is 9.*svp precompute"):
        open_table(tmp_path / "t", [source], [cache], training=True)
    table = open_table(tmp_path / "t", [source], [cache], training=True, partial=True)
    assert {table.entry(i).image_id for i in range(len(table))} == {1, 2, 4, 5, 6, 7, 8}
    assert table.notes[0].startswith("leak: ")
    assert table.notes[-4:-1] == [
        "2 images left out: not in the cache (the first is 9)",
        "1 image left out: quarantined (the first is 3)",
        EMPTY,
    ]
    assert "7 of 10 photographs are not in" in table.notes[-1]  # the world has no files
    assert table.left_out == {
        "bad records": 0, "images in quarantine": 1, "images not in the cache": 2,
    }  # fmt: skip
    with pytest.raises(DataError, match="1 image in quarantine, more than --max-failures 0"):
        open_table(tmp_path / "t", [source], [cache], training=True, partial=True, max_failures=0)
    with pytest.raises(DataError, match="not in the cache"):  # also once the table is there
        open_table(tmp_path / "t", [source], [cache], training=True)
    kept = open_table(tmp_path / "t", [source], [cache], training=False, partial=True)
    assert kept.sentence_count == table.sentence_count + 1  # evaluation keeps empty targets


def test_only_the_asked_data_sets(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "cache", range(1, 9))
    sources = [make_source("aa", range(1, 9)), make_source("bb", range(1, 4))]
    table = open_table(tmp_path / "t", sources, [cache], training=True, datasets=["bb"])
    assert table.datasets == ["bb"] and table.sizes == [3]
    with pytest.raises(DataError, match="no data set 'cc': there are aa, bb"):
        open_table(tmp_path / "t", sources, [cache], training=True, datasets=["cc"])


def test_an_image_of_another_size_does_not_belong(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "cache", range(1, 4))
    source = make_source("aa", range(1, 4))
    other = replace(source, images=tuple(replace(r, width=99) for r in source.images))
    with pytest.raises(DataError, match=r"image 1 is 12x99 in the data and 12x10 \('d/1.png'\)"):
        open_table(tmp_path / "t", [other], [cache], training=True)


def test_a_sentence_that_would_break_a_prompt_is_named(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "cache", range(1, 4))
    source = make_source("aa", range(1, 4))
    first = replace(source.sentences[0], sent="the [SEG] one")
    bad = replace(source, sentences=(first, *source.sentences[1:]))
    with pytest.raises(DataError, match=r"aa sentence 100: .*special token \[SEG\]"):
        open_table(tmp_path / "t", [bad], [cache], training=True, max_failures=0)
    table = open_table(tmp_path / "t", [bad], [cache], training=True)
    assert table.sentence_count == len(source.sentences) - 1 and table.left_out["bad records"] == 1
    assert any("aa sentence 100: " in note and "[SEG]" in note for note in table.notes)


POLYGONS = {
    "four numbers": [[1, 2, 3, 4]],
    "no polygon": "x",
    "too many runs": {"size": [12, 10], "counts": [5]},
    "another size": {"size": [13, 10], "counts": [130]},
    "too large": {"size": [12, 9000], "counts": [108000]},
}


@pytest.mark.parametrize("kind", POLYGONS)
def test_a_bad_mask_costs_its_own_sentences(tmp_path: Path, kind: str) -> None:
    """Named and counted where it is used, also by the second run; nobody looks where it is not."""
    cache = write_cache(tmp_path / "cache", range(1, 9), bad=[3])
    source = make_source("aa", range(1, 10))

    def spoilt(image_id: int) -> Source:
        key = ("aa", 10 * image_id)
        bad = replace(source.annotations[key], segmentation=POLYGONS[kind])
        return replace(source, annotations={**source.annotations, key: bad})

    whole = open_table(tmp_path / "t", [source], [cache], training=True, partial=True)
    for image_id in (3, 9):  # in quarantine; in no cache
        unused = spoilt(image_id)
        table = open_table(tmp_path / "t", [unused], [cache], training=True, partial=True)
        assert table.sentence_count == whole.sentence_count and table.left_out["bad records"] == 0
    lost = sum(row.ann_id == 50 for row in source.sentences)
    for _ in range(2):
        table = open_table(tmp_path / "t", [spoilt(5)], [cache], training=True, partial=True)
        assert table.sentence_count == whole.sentence_count - lost
        assert table.left_out["bad records"] == lost == 1
        assert any("aa sentence 500: " in note and "image 5" in note for note in table.notes)
    with pytest.raises(DataError, match="more than --max-failures 1: .*aa sentence 500"):
        open_table(
            tmp_path / "t", [spoilt(5)], [cache], training=True, partial=True, max_failures=1
        )
    every = {k: replace(a, segmentation=POLYGONS[kind]) for k, a in source.annotations.items()}
    with pytest.raises(DataError, match="more than half"):
        open_table(
            tmp_path / "t", [replace(source, annotations=every)], [cache], training=True,
            partial=True,
        )  # fmt: skip


@pytest.mark.parametrize("name", ["table.json", "index.safetensors", "targets-00000.bin"])
@pytest.mark.parametrize("damage", ["missing", "cut", "flip"])
def test_damage_is_never_read_as_data(tmp_path: Path, name: str, damage: str) -> None:
    table, _ = make_table(tmp_path, first=6, second=2)
    want = [mask_of(table, table.entry(i), one) for i in range(8) for one in table.sentences(i)]
    file = table.path / name
    data = bytearray(file.read_bytes())
    for at in [0] if damage != "flip" else range(0, len(data), max(1, len(data) // 25)):
        broken = data[: len(data) // 2] if damage == "cut" else bytearray(data)
        broken[at] ^= 4 if damage == "flip" else 0
        file.unlink() if damage == "missing" else file.write_bytes(broken)
        with pytest.raises(CacheError, match=f"{name}|table.json"):
            again = ExpressionTable(table.path)
            for i in range(8):
                for one in again.sentences(i):
                    mask_of(again, again.entry(i), one)
    assert len(want) > 8
