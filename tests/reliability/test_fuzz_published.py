"""Fuzz of published data sets: each value of each format replaced, each file cut, doubled, or not a file."""

import json
import os
import pickle
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("pyarrow")

from support import published_sets as sets
from support import refer_sets as refer
from support.fuzzing import FUZZ, ODD, holds
from svp.pipeline.datasets import open_dataset
from svp.pipeline.errors import DataError, SvpError

EVERY = 1 << 40  # bad records that are accepted
STEP = 1 if FUZZ.max_examples > 60 else 11  # of a few hundred changes of a file
CUTS = 8 * FUZZ.max_examples // 60
WRONG = [*ODD, float("nan"), "\ud800", "a\nb", [0] * 4, {"size": [1 << 40, 1 << 40], "counts": "0"}]


class File(NamedTuple):
    """One file of a small valid set, and how its values are read and written."""

    make: Callable[[Path], Path]  # writes the set, gives its folder
    name: str

    def load(self, folder: Path) -> Any:
        path = folder / self.name
        match path.suffix:
            case ".p":
                return pickle.loads(path.read_bytes())
            case ".jsonl":
                return [json.loads(line) for line in path.read_bytes().splitlines()]
            case ".parquet":
                from pyarrow import parquet

                return parquet.read_table(path).to_pylist()
            case _:
                return json.loads(path.read_bytes())

    def store(self, folder: Path, value: Any) -> None:
        path = folder / self.name
        match path.suffix:
            case ".p":
                path.write_bytes(pickle.dumps(value, 2))
            case ".jsonl":
                lines = value if isinstance(value, list) else [value]
                path.write_text("".join(json.dumps(line) + "\n" for line in lines))
            case ".parquet":
                write_table(path, value)
            case _:
                path.write_text(json.dumps(value))


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """A column whose values are of several kinds is of the last row's kind."""
    from pyarrow import ArrowException, Table, array, parquet

    columns = {}
    for name in rows[0]:
        values = [row.get(name) for row in rows]
        try:
            columns[name] = array(values)
        except (ArrowException, UnicodeEncodeError, OverflowError):
            try:
                columns[name] = array([values[-1]] * len(values))
            except (ArrowException, UnicodeEncodeError, OverflowError):
                columns[name] = array([None] * len(values))
    parquet.write_table(Table.from_pydict(columns), path)


def reasonseg(root: Path) -> Path:
    false = [["the dog", False, "there is none"]]
    shapes = (("target", sets.OUTER), ("Ignore", sets.SMALL))
    files = {f"val_{name}": sets.reason(*shapes, false_premise_QA=false) for name in "abc"}
    return sets.reasonseg(root, **files)


def refcoco(root: Path) -> Path:
    refs = [refer.refer_ref(k, k + 1, refer.said(k, exist=True)) for k in range(3)]
    return refer.write(root / "refcoco", refs)


def ref_adv(root: Path) -> Path:
    rows = [sets.adv(k, [1.0, 2.0, 11.0, 12.0], sets.jpeg(10)) for k in range(3)]
    sets.write_parquet(root / "ref-adv-s" / "data" / "train.parquet", rows)
    return root / "ref-adv-s"


def phrasecut(root: Path) -> Path:
    return sets.phrasecut(root, val=[sets.task(k, [[sets.OUTER, sets.SMALL]]) for k in range(3)])


FILES = {
    "reasonseg": File(reasonseg, "val/c.json"),
    "phrasecut": File(phrasecut, "refer_val.json"),
    "phrasecut images": File(phrasecut, "image_data_split3000.json"),
    "refcocom": File(
        lambda root: sets.refcocom(root, sets.part(1), sets.part(2), sets.part("1")),
        "annotations/val.json",
    ),
    "gseval": File(
        lambda root: sets.gseval(root, *map(sets.line, range(3))), "GroundingSuite-Eval.jsonl"
    ),
    "ref-l4": File(
        lambda root: sets.ref_l4(root, *(sets.l4(k, [5.0, 4.0, 10.0, 8.0]) for k in range(3))),
        "ref-l4-val.parquet",
    ),
    "ref-adv": File(ref_adv, "data/train.parquet"),
    "grefcoco": File(
        lambda root: refer.grefs(root, [refer.ref(0, [1, 3]), refer.ref(1, [-1]), refer.ref(2, [2])]),
        "grefs(unc).json",
    ),
    "refcoco": File(refcoco, "refs(unc).p"),
    "instances": File(refcoco, "instances.json"),
}  # fmt: skip


def changed(value: Any, wrong: list[Any]) -> Iterator[Any]:
    """The tree with each of its parts replaced by each wrong value; of lists, the last item's parts."""
    yield from wrong
    if isinstance(value, dict):
        for key, child in value.items():
            yield {k: v for k, v in value.items() if k != key}
            yield from (value | {key: one} for one in changed(child, wrong))
    elif isinstance(value, list) and value:
        yield value[:-1]
        yield [*value, value[-1]]
        yield from ([*value[:-1], one] for one in changed(value[-1], wrong))


def used(folder: Path) -> bool:
    """Open it, strictly and not, and look at all its masks: each may refuse, none may break."""

    def read(failures: int) -> None:
        source = open_dataset(folder, allow_counts=True, max_failures=failures, photos=False)
        for row in source.sentences:
            if (row.dataset, row.ann_id) in source.good_masks:
                source.ignored(row)

    holds(lambda: read(EVERY))
    return holds(lambda: read(0))


@pytest.mark.parametrize("kind", FILES)
def test_any_value_may_be_odd(kind: str, tmp_path: Path) -> None:
    """Every part of the last record, and of the file, in turn; every wrong value in turn."""
    file = FILES[kind]
    folder = file.make(tmp_path)
    assert used(folder), "the set itself is valid"
    written = refused = 0
    for value in islice(changed(file.load(folder), WRONG), 0, None, STEP):
        try:
            file.store(folder, value)
        except (TypeError, ValueError, OverflowError, AttributeError, NotImplementedError):
            continue  # the format cannot say it
        written += 1
        refused += not used(folder)
    assert 0 < refused < written


@pytest.mark.parametrize("kind", FILES)
def test_a_file_may_be_cut_or_no_file(kind: str, tmp_path: Path) -> None:
    file = FILES[kind]
    folder = file.make(tmp_path)
    path = folder / file.name
    whole = path.read_bytes()
    for stop in range(0, len(whole), max(1, len(whole) // CUTS)):
        path.write_bytes(whole[:stop])
        used(folder)
        if path.suffix != ".jsonl" or 0 < stop < 100:
            with pytest.raises(SvpError, match=re.escape(path.name)):
                open_dataset(folder, allow_counts=True, photos=False)
    path.write_bytes(b"\xef\xbb\xbf" + whole)
    assert used(folder) == (path.suffix in (".json", ".jsonl")), "only text may begin with a BOM"
    path.unlink()
    for make in (path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("nothing")):
        make()
        used(folder)
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("shapes", "rule"),
    [
        ([("target", [[-65_000, 0], [65_000, 9]] * 500)], "outlines of over 4000000 pixels"),
        ([("target", sets.SMALL)] * 1001, "1001 shapes; at most 1000"),
    ],
)
def test_a_small_file_takes_little_memory(shapes: Any, rule: str, tmp_path: Path) -> None:
    """Kilobytes that draw gigabytes of outline."""
    good = sets.reason(("target", sets.OUTER))
    folder = sets.reasonseg(tmp_path, val_a=good, val_b=good, val_c=sets.reason(*shapes))
    assert not used(folder)
    with pytest.raises(DataError, match=f"val/c.json: {rule}"):
        open_dataset(folder)


def test_a_ref_whose_id_has_no_double(tmp_path: Path) -> None:
    """The id of a made-up target is twice the ref's: beyond 64 bits no table could hold it."""
    refs = [refer.ref(number, [1, 2], refer.said(number & 7)) for number in (1, (1 << 62) - 1)]
    source = open_dataset(refer.grefs(tmp_path, refs), photos=False)
    assert min(row.ann_id for row in source.sentences) == -(1 << 63)
    refs[1]["ref_id"] += 1
    with pytest.raises(DataError, match=rf"ref_id {1 << 62} is not an id"):
        open_dataset(refer.grefs(tmp_path, refs), photos=False)
