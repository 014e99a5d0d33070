"""Fuzz of what comes with a data set: REFER, COCO, JSONL, masks, recipes, result files."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from support.fuzzing import CORPUS, FUZZ, ODD, holds, mutated, mutated_json, seeds
from svp.pipeline.datasets.coco import load_instances
from svp.pipeline.datasets.jsonl import read_jsonl
from svp.pipeline.datasets.refer_records import load_refs
from svp.pipeline.datasets.tables import Annotation, Source, assemble
from svp.pipeline.io.yaml_files import Override, parse_yaml
from svp.pipeline.masks.rle import area, decode, from_segmentation
from svp.pipeline.precompute.options import Flags, resolve
from svp.pipeline.records import Rle
from svp.train.evaluation.results import read_results
from svp.train.options import TrainFlags, resolve_train

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)


def write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@FUZZ
@given(mutated(seeds("refer")))
def test_refer_pickles(tmp_path: Path, data: bytes) -> None:
    path = write(tmp_path, "refs(unc).p", data)
    holds(lambda: load_refs(path))


@FUZZ
@given(mutated(seeds("coco")) | mutated_json(seeds("coco")).map(lambda v: json.dumps(v).encode()))
def test_coco(tmp_path: Path, data: bytes) -> None:
    path = write(tmp_path, "instances_x.json", data)

    def read() -> None:
        _, objects, _ = load_instances(path, "x", None, 0)
        for item in objects.values():
            from_segmentation(item.segmentation, item.height, item.width, "a")

    holds(read)


@FUZZ
@given(mutated(seeds("jsonl")))
def test_jsonl(tmp_path: Path, data: bytes) -> None:
    path = write(tmp_path, "mine.jsonl", data)
    holds(lambda: read_jsonl(path, None))


LINES = [line for seed in seeds("jsonl") for line in seed.splitlines()]
GOOD_LINES = [
    {"image": f"{n}.png", "expression": "the disc", "mask": {"size": [9, 13], "counts": [117]},
     "split": "val", "id": f"good-{n}"}
    for n in range(3)
]  # fmt: skip


@FUZZ
@given(mutated_json(LINES) | JSON, st.integers(0, 3))
def test_one_record_never_stops_a_set(tmp_path: Path, record: object, place: int) -> None:
    """Whatever stands in a line: the other lines are read, and their masks are used."""
    for n in range(3):
        if not (photo := tmp_path / f"{n}.png").exists():
            Image.new("RGB", (13, 9)).save(photo)
    lines: list[object] = [*GOOD_LINES]
    lines.insert(place, record)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    path = write(tmp_path, "mine.jsonl", text.encode("utf-8", "surrogatepass"))
    found = read_jsonl(path, None, max_failures=None)
    source = assemble(found, None)
    good = [row for row in source.sentences if row.sent == "the disc" and row.split == "val"]
    assert len({row.image_id for row in good}) >= 3
    assert all((row.dataset, row.ann_id) in source.good_masks for row in good[:3])
    assert source.faults.found in (0, 1)


@FUZZ
@given(mutated_json(seeds("segmentation")) | JSON)
def test_a_bad_mask_is_named_and_no_other_is_lost(tmp_path: Path, value: object) -> None:
    fine = {"size": [9, 13], "counts": [117]}
    known = {("d", n): Annotation("d", n, 1, 9, 13, value if n == 2 else fine) for n in (1, 2, 3)}
    source = Source("d", "refer", None, tmp_path, (), (), known)
    assert {("d", 1), ("d", 3)} <= source.good_masks.keys()
    assert source.good_masks.keys() | source.bad_masks.keys() == known.keys()
    assert all("d annotation 2" in line for line in source.bad_masks.values())


@FUZZ
@given(
    mutated_json(seeds("segmentation")) | JSON,
    st.sampled_from([(9, 13), (1, 1), (8192, 8192), (0, 5), (10**9, 3), (-1, 4)]),
)
def test_segmentations(value: object, size: tuple[int, int]) -> None:
    def read() -> None:
        made = from_segmentation(value, *size, "a")
        assert set(decode(made).ravel()) <= {0, 1}

    holds(read)


@FUZZ
@given(st.binary(max_size=40) | st.text("0123456789OPQ`abc", max_size=40).map(str.encode),
       st.integers(-2, 9000), st.integers(-2, 9000))  # fmt: skip
def test_rle_strings(counts: bytes, height: int, width: int) -> None:
    if holds(lambda: area(Rle(height, width, counts))) and height * width < 1 << 20:
        assert int(decode(Rle(height, width, counts)).sum()) == area(Rle(height, width, counts))


@FUZZ
@pytest.mark.parametrize("kind", ["precompute", "train"])
@given(st.data())
def test_recipes(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    """From the bytes of a file to the resolved recipe, with a wrong value set here and there."""
    content = data.draw(mutated(seeds(f"recipe-{kind}")))
    path = write(tmp_path, "recipe.yaml", content)
    name = data.draw(st.sampled_from(["a.b", "superpixels", "superpixels.grid.x", "features.size",
                                      "stages.0.lr", "model.init", "data", "run.keep", "stages"]))  # fmt: skip
    sets = (
        [f"{name}={json.dumps(data.draw(st.sampled_from(ODD)))}"]
        if data.draw(st.booleans())
        else []
    )
    if kind == "precompute":
        flags = data.draw(st.sampled_from([Flags(), Flags(points_per_side=8), Flags(preset="fma"),
                                           Flags(superpixels="slic"), Flags(features="int8")]))  # fmt: skip
        holds(lambda: resolve("tiny", path, flags, sets, tmp_path))
    else:
        train = data.draw(st.sampled_from([TrainFlags(), TrainFlags(seed=3, micro_batch=2),
                                           TrainFlags(projector="mlp")]))  # fmt: skip
        holds(lambda: resolve_train("tiny", path, train, sets, weights=False))


@FUZZ
@pytest.mark.parametrize("kind", ["precompute", "train"])
@given(st.data())
def test_recipes_of_any_shape(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    """The shipped recipe as JSON (which is YAML) with parts replaced by odd values."""
    valid = [json.dumps(parse_yaml(text.decode(), "x")).encode() for text in seeds(f"recipe-{kind}")
             if parse_is_valid(text)]  # fmt: skip
    value = data.draw(mutated_json(valid))
    path = write(tmp_path, "recipe.yaml", json.dumps(value).encode())
    if kind == "precompute":
        holds(lambda: resolve("tiny", path, Flags(), [], tmp_path))
    else:
        holds(lambda: resolve_train("tiny", path, TrainFlags(), [], weights=False))


@pytest.mark.parametrize("kind", ["precompute", "train"])
def test_recipes_that_once_broke_the_parser(tmp_path: Path, kind: str) -> None:
    """Each is refused; without its fix each was an IndexError, KeyError, AttributeError or so."""
    broke = sorted((CORPUS / f"recipe-{kind}").glob("broke-*"))
    assert broke
    for path in broke:
        if kind == "precompute":
            assert not holds(lambda path=path: resolve("tiny", path, Flags(), [], tmp_path))
        else:
            assert not holds(lambda path=path: resolve_train("tiny", path, TrainFlags(), []))


def parse_is_valid(text: bytes) -> bool:
    try:
        return holds(lambda: parse_yaml(text.decode(), "x"))
    except UnicodeDecodeError:
        return False


@FUZZ
@given(st.text(max_size=30), JSON)
def test_assignments(text: str, value: object) -> None:
    raw = {"a": {"b": 1, "c": [1, {"d": 2}]}, "e": 3, "f": value}
    holds(lambda: Override.parse(text).apply(raw))
    holds(lambda: Override.parse(f"a.c.{text}").apply(raw))


@FUZZ
@given(mutated(seeds("results")))
def test_result_files(tmp_path: Path, data: bytes) -> None:
    path = write(tmp_path, "r.jsonl", data)
    holds(lambda: read_results(path))


@FUZZ
@given(mutated_json([line for data in seeds("results") for line in data.splitlines()[1:2]]))
def test_result_rows_with_a_right_checksum(tmp_path: Path, row: object) -> None:
    """The header vouches for the odd row: only the row's own rules can refuse it."""
    import xxhash

    first = json.loads(seeds("results")[-1].splitlines()[0])
    body = json.dumps(row, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    first |= {"rows": 1, "xxh3": xxhash.xxh3_64_hexdigest(body)}
    path = write(tmp_path, "r.jsonl", json.dumps(first).encode() + b"\n" + body)
    if holds(lambda: read_results(path)):
        (found,) = read_results(path).rows
        assert found.intersection <= found.target <= found.union
