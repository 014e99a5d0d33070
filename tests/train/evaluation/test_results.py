"""Result files: nothing is lost, and no damaged or half file is believed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from svp.pipeline.errors import ConfigError, DataError, MissingError
from svp.pipeline.masks.rle import encode
from svp.train.evaluation.results import (
    Bounds,
    Header,
    Results,
    Row,
    SplitSize,
    collect,
    read_results,
    write_results,
)
from svp.train.metrics import intervals, metrics

HEADER = Header(
    svp="0.1.0",
    commit="abc",
    protocol="full",
    generate=False,
    seed=0,
    repeats=1,
    order="area",
    splits=[SplitSize(dataset="refcoco", split_by="unc", split="val", images=3, sentences=6)],
    digests={"cache": "c" * 64},
    libraries={"torch": "2.10"},
)


def row(sent_id: int, *, image_id: int = 1, repeat: int = 0, seed: int = 0) -> Row:
    rng = np.random.default_rng([seed, sent_id])
    predicted, target = rng.random((2, 9, 13)) < 0.4
    return Row(
        repeat=repeat,
        dataset="refcoco",
        image_id=image_id,
        ref_id=sent_id // 2,
        sent_id=sent_id,
        text='the "left" <b>man</b>',
        path="a/b.png",
        height=9,
        width=13,
        intersection=int((predicted & target).sum()),
        union=int((predicted | target).sum()),
        target=int(target.sum()),
        tokens=40,
        has_seg=True,
        counts=encode(predicted).counts.decode(),
        classes=["position"],
        bounds=Bounds(single=0.5, union=0.75, pieces=3),
    )


@pytest.fixture
def results() -> Results:
    return collect(HEADER, [row(k, image_id=k // 2) for k in (5, 3, 1, 0, 2, 4)])


def test_round_trip_gives_the_same_metrics(results: Results, tmp_path: Path) -> None:
    path = tmp_path / "eval" / "val.jsonl"
    write_results(path, results)
    again = read_results(path)
    assert again == results and [r.sent_id for r in again.rows] == list(range(6))
    assert metrics(again.counts) == metrics(results.counts)
    assert intervals(again.counts, again.images) == intervals(results.counts, results.images)
    with pytest.raises(ConfigError, match="never overwritten"):
        write_results(path, results)


@pytest.mark.parametrize(("side", "at_least"), [(300, 4097), (700, 70_000)])
def test_a_mask_is_bound_by_its_image_alone(side: int, at_least: int, tmp_path: Path) -> None:
    noisy = np.random.default_rng(0).random((side, side)) < 0.5
    counts = encode(noisy).counts.decode()
    assert len(counts) >= at_least
    pixels = int(noisy.sum())
    long = row(1).model_copy(
        update={
            "height": side, "width": side, "counts": counts, "text": "w" * 9000, "path": "p" * 5000,
            "intersection": 0, "target": 0, "union": pixels, "classes": ["c" * 5000],
        }
    )  # fmt: skip
    made = Row.model_validate_json(long.model_dump_json())
    write_results(tmp_path / "val.jsonl", collect(HEADER, [made]))
    assert read_results(tmp_path / "val.jsonl").rows[0] == made
    beyond = made.model_copy(update={"counts": "0" * (6 * (side * side + 1) + 1)})
    write_results(tmp_path / "beyond.jsonl", collect(HEADER, [beyond]))
    with pytest.raises(DataError, match=r"line 2: .*longer than its \d+ pixels"):
        read_results(tmp_path / "beyond.jsonl")


def test_any_changed_byte_is_refused(results: Results, tmp_path: Path) -> None:
    path = tmp_path / "val.jsonl"
    write_results(path, results)
    good, rng = path.read_bytes(), np.random.default_rng(0)
    body = good.index(b"\n") + 1
    for at in rng.integers(body, len(good), 60).tolist():
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(DataError, match=r"val\.jsonl line \d+"):
            read_results(path)


def test_any_cut_is_refused(results: Results, tmp_path: Path) -> None:
    path = tmp_path / "val.jsonl"
    write_results(path, results)
    good = path.read_bytes()
    for length in range(0, len(good), 97):
        path.write_bytes(good[:length])
        with pytest.raises(DataError, match=r"val\.jsonl line \d+"):
            read_results(path)
    path.write_bytes(good.rpartition(b"\n")[0].rpartition(b"\n")[0] + b"\n")
    with pytest.raises(DataError, match="line 6: the file ends after 5 of 6"):
        read_results(path)


def test_impossible_rows_are_named_by_line(results: Results, tmp_path: Path) -> None:
    first = results.rows[0]
    for wrong, what in (
        ({"intersection": first.intersection - 1}, "pixels, which contradicts the counts"),
        ({"target": first.union + 1}, "target <= union"),
        ({"has_seg": False}, "without a .SEG"),
        ({"counts": "0"}, "runs sum"),
    ):
        path = tmp_path / f"{next(iter(wrong))}.jsonl"
        changed = [first.model_copy(update=wrong), *results.rows[1:]]
        write_results(path, replace(results, rows=changed))
        with pytest.raises(DataError, match=f"line 2: .*{what}"):
            read_results(path)


def test_a_sentence_counts_once_per_repeat() -> None:
    with pytest.raises(DataError, match="sentence 3: two results"):
        collect(HEADER, [row(3), row(2), row(3)])
    assert len(collect(HEADER, [row(3), row(3, repeat=1)]).rows) == 2


def test_missing_and_newer_files(results: Results, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no such result file"):
        read_results(tmp_path / "none.jsonl")
    newer = HEADER.model_copy(update={"schema_version": 2})
    write_results(tmp_path / "new.jsonl", replace(results, header=newer))
    with pytest.raises(DataError, match="schema 2, this svp reads 1"):
        read_results(tmp_path / "new.jsonl")
