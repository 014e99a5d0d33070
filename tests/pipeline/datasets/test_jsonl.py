"""Own data as JSONL: the schema, ids, and every rule with its line number."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from svp.pipeline.datasets import Source, check, open_dataset
from svp.pipeline.datasets import jsonl_lines as module
from svp.pipeline.datasets.images import read_record
from svp.pipeline.errors import DataError, ImageError, MissingError
from svp.pipeline.masks import rle

SQUARE = [[2.0, 2.0, 8.0, 2.0, 8.0, 8.0, 2.0, 8.0]]
GOOD = {"image": "images/a.png", "expression": "red cup", "mask": SQUARE}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in "ab":
        Image.new("RGB", (16, 12)).save(tmp_path / "images" / f"{name}.png")
    return tmp_path


def write(root: Path, *records: object) -> Path:
    path = root / "mine.jsonl"
    lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def opened(root: Path, *records: object, **options: Any) -> Source:
    return open_dataset(write(root, *records), **options)


def test_both_mask_forms_give_the_same_expression(root: Path) -> None:
    mask = np.zeros((12, 16), bool)
    mask[2:8, 2:8] = True
    made = rle.encode(mask)
    compressed = {"size": [12, 16], "counts": made.counts.decode()}
    listed = {"size": [12, 16], "counts": rle.from_string(made.counts).tolist()}
    source = opened(root, GOOD, {**GOOD, "mask": compressed}, "", {**GOOD, "mask": listed})
    assert [e.mask for e in source.expressions] == [made] * 3
    assert [(e.sent_id, e.ref_id, e.ann_id) for e in source.expressions] == [
        (1, 1, 1),
        (2, 2, 2),
        (4, 4, 4),  # the line number, blank lines counted
    ]
    assert [(r.path, r.height, r.width) for r in source.images] == [("images/a.png", 12, 16)]
    assert source.image_root == root and source.name == "mine"


def test_objects_splits_and_datasets(root: Path) -> None:
    records = [
        {**GOOD, "object": "cup", "id": "x"},
        {**GOOD, "object": "cup", "expression": " the cup  ", "unknown": 1},
        {**GOOD, "image": "./images/b.png", "object": "cup", "split": "val"},
        {**GOOD, "dataset": "other"},
    ]
    source = opened(root, *records)
    assert source.name == "mine,other"
    assert [(r.dataset, r.ann_id, r.sent_id) for r in source.sentences if r.split == "train"] == [
        ("mine", 1, 1),
        ("mine", 1, 2),
        ("other", 4, 4),
    ]
    assert source.expressions[1].text in ("the cup", "red cup")
    assert any("unknown fields are ignored: unknown" in notice for notice in source.notices)
    train = opened(root, *records, split="train")
    assert [record.path for record in train.images] == ["images/a.png"]


def test_image_ids_do_not_depend_on_order_or_spelling(root: Path) -> None:
    b = {**GOOD, "image": "images/b.png"}
    one = opened(root, GOOD, b)
    two = opened(root, b, {**GOOD, "image": "./images//a.png"})
    assert one.images == two.images


def test_images_can_lie_elsewhere(root: Path) -> None:
    record = {**GOOD, "image": "a.png"}
    assert opened(root, record, images=root / "images").images[0].height == 12


def test_unreadable_images_are_listed_and_fail_later(root: Path) -> None:
    (root / "images" / "c.png").write_bytes(b"")
    counts = {"size": [12, 16], "counts": [192]}
    records = [
        {**GOOD, "image": "images/c.png"},
        {**GOOD, "image": "gone.png", "split": "val", "mask": counts},
        GOOD,
    ]
    source = opened(root, *records, allow_empty=True)
    sizes = {record.path: (record.height, record.width) for record in source.images}
    assert sizes == {"images/c.png": (0, 0), "gone.png": (12, 16), "images/a.png": (12, 16)}
    reasons = {}
    for record in source.images:
        try:
            read_record(source.image_root, record)
        except ImageError as error:
            reasons[record.path] = error.reason
    assert reasons == {"images/c.png": "empty", "gone.png": "missing"}
    assert len(source.expressions) == 2  # a polygon without an image has no size
    assert sum("will be quarantined" in notice for notice in source.notices) == 2
    assert any("1 object without expression" in notice for notice in source.notices)


RULES: dict[str, tuple[object, str]] = {
    "syntax": ('{"image": ', "not JSON at column 11"),
    "array": ("[1]", "is not an object"),
    "NaN": ('{"image": NaN}', "NaN is not allowed"),
    "infinity": ('{"image": -Infinity}', "-Infinity is not allowed"),
    "deep": ('{"mask": ' + "[" * 40 + "]" * 40 + "}", "more than 16 levels"),
    "very deep": ("[" * 100_000, "nested too deeply"),
    "key twice": ('{"image": "a", "image": "b"}', "key image is given twice"),
    "nested key twice": ('{"mask": {"size": 1, "size": 2}}', "key size is given twice"),
    "long number": ('{"image": ' + "9" * 5000 + "}", "line 2: "),
    "missing": ({"image": "images/a.png"}, "expression, mask missing"),
    "image type": ({**GOOD, "image": 3}, "image 3 is not a string"),
    "image empty": ({**GOOD, "image": ""}, "image '' is not a string of 1"),
    "traversal": ({**GOOD, "image": "../a.png"}, "is refused: it holds a .. component"),
    "absolute": ({**GOOD, "image": "/etc/passwd"}, "is refused: it is an absolute path"),
    "blank": ({**GOOD, "expression": "  "}, "expression '  ' is empty"),
    "expression type": ({**GOOD, "expression": None}, "expression None is not a string"),
    "long": ({**GOOD, "expression": "x" * 513}, "has 513 characters; at most 512"),
    "control": ({**GOOD, "expression": "a\x1b[31mb"}, "holds a control character"),
    "special": ({**GOOD, "expression": "the [SEG] cup"}, "holds the special token [SEG]"),
    "image token": ({**GOOD, "expression": "<image> cup"}, "special token <image>"),
    "end": ({**GOOD, "expression": "cup </s>"}, "special token </s>"),
    "split": ({**GOOD, "split": "testA"}, "split 'testA' is not one of train, val, test"),
    "id type": ({**GOOD, "id": 7}, "id 7 is not a string"),
    "dataset": ({**GOOD, "dataset": "a\x1b[2J"}, "dataset 'a\\x1b[2J' holds a control"),
    "id of a line": ({**GOOD, "id": "1"}, "id '1' is that of line 1"),
    "mask type": ({**GOOD, "mask": "x"}, "mask: 'x' is neither polygons nor an RLE"),
    "polygon": ({**GOOD, "mask": [[1, 2, 3]]}, "mask, polygon 0: 3 numbers"),
    "runs": ({**GOOD, "mask": {"size": [12, 16], "counts": [5]}}, "runs sum to 5"),
    "size": ({**GOOD, "mask": {"size": [16, 12], "counts": [192]}}, "differs from the image's"),
    "other mask": ({**GOOD, "object": "o", "mask": SQUARE * 2}, "object 'o' has another mask"),
}


@pytest.mark.parametrize("case", RULES)
def test_rules_name_file_line_and_value(case: str, root: Path) -> None:
    record, rule = RULES[case]
    with pytest.raises(DataError) as caught:
        opened(root, {**GOOD, "object": "o"}, record)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{root / 'mine.jsonl'}: line 2: ") and rule in problem
    assert "mine.jsonl: 1 problem" in str(caught.value) and problem.isprintable()


def test_bad_utf_8(root: Path) -> None:
    path = write(root, GOOD)
    path.write_bytes(path.read_bytes() + b'{"image": "\xff"}\n')
    with pytest.raises(DataError, match="line 2: byte 11 is not UTF-8"):
        open_dataset(path)


def test_all_errors_are_listed(root: Path) -> None:
    with pytest.raises(DataError) as caught:
        opened(root, *(case[0] for case in RULES.values()), *["{"] * 200)
    assert len(caught.value.problems) == 100
    assert "problems (the first 100 shown)" in str(caught.value)


def test_an_empty_mask_is_no_error_but_told(root: Path) -> None:
    """In val and test it says that nothing is meant; in train the table leaves it out."""
    records = [{**GOOD, "mask": [], "split": split} for split in ("train", "val", "val")]
    source = opened(root, GOOD, *records)
    assert len(source.expressions) == 4 and source.faults.found == 0
    told = [notice for notice in source.notices if "with an empty mask" in notice]
    assert told[0].startswith("1 sentence of train") and "left out" in told[0]
    assert told[1].startswith("2 sentences of val") and "N-acc" in told[1]
    quiet = opened(root, GOOD, *records, allow_empty=True)
    assert not [notice for notice in quiet.notices if "N-acc" in notice]


BAD = {name: RULES[name] for name in ("syntax", "traversal", "special", "polygon", "runs", "size")}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_line_costs_itself(case: str, root: Path) -> None:
    """Left out, named and counted, at any place in the file."""
    record, rule = BAD[case]
    other = {**GOOD, "image": "images/b.png"}
    for lines in ([GOOD, record, other], [record, GOOD, other], [GOOD, other, record]):
        source = opened(root, *lines, max_failures=None)
        assert len(source.expressions) == 2 and len(source.images) == 2
        assert source.faults.found == 1
        (line,) = source.faults.lines
        assert f"line {1 + lines.index(record)}: " in line and rule in line and "mine.jsonl" in line
        assert any(rule in notice for notice in source.notices)
        assert len(opened(root, *lines, max_failures=1).expressions) == 2
        with pytest.raises(DataError, match="1 problem"):
            opened(root, *lines)


def test_more_bad_lines_than_accepted_are_refused(root: Path) -> None:
    bad = [{**GOOD, "mask": [[1, 2, 3]]}] * 3
    assert opened(root, *bad, *[GOOD] * 3, max_failures=None).faults.found == 3
    with pytest.raises(DataError, match="3 problems in 5 records, more than half"):
        opened(root, *bad, *[GOOD] * 2, max_failures=None)
    with pytest.raises(DataError, match="3 problems, more than --max-failures 2"):
        opened(root, *bad, *[GOOD] * 9, max_failures=2)
    assert len(opened(root, *bad, GOOD, max_failures=3).expressions) == 1


def test_a_list_on_the_first_line_costs_itself(root: Path) -> None:
    """It is no JSON array over the whole file, which goes on with objects."""
    source = opened(root, json.dumps([{}]), GOOD, GOOD, max_failures=None)
    assert len(source.expressions) == 2 and "line 1: " in source.faults.lines[0]


@pytest.mark.parametrize("wrong", ["{", {"image": "images/a.png"}, {**GOOD, "mask": [[1, 2, 3]]}])
def test_half_means_half_of_all_lines(wrong: Any, root: Path) -> None:
    """Whether a line is no JSON or its mask is wrong, it is one record of the file."""
    assert opened(root, *[wrong] * 4, *[GOOD] * 6, max_failures=None).faults.found == 4
    assert opened(root, *[wrong] * 2, *[GOOD] * 2, max_failures=None).faults.found == 2
    with pytest.raises(DataError, match="6 problems in 11 records, more than half"):
        opened(root, *[wrong] * 6, *[GOOD] * 5, max_failures=None)


@pytest.mark.parametrize("size", [[60, 9000], [9000, 60], [60, 10**7], [60, 10**30]])
def test_an_image_too_large_to_read_goes_to_quarantine(size: list[int], root: Path) -> None:
    """Whatever its mask states: the photograph decides, and nobody looks at the mask."""
    Image.new("RGB", (9000, 2)).save(root / "images" / "strip.png")
    record = {**GOOD, "image": "images/strip.png"}
    for mask in ({"size": size, "counts": [size[0] * size[1]]}, SQUARE):
        source = opened(root, GOOD, {**record, "mask": mask})
        assert {record.path for record in source.images} == {"images/a.png", "images/strip.png"}
        assert ("mine", 1) in source.good_masks and ("mine", 2) not in source.good_masks
        strip = next(image for image in source.images if image.path == "images/strip.png")
        with pytest.raises(ImageError) as caught:
            read_record(source.image_root, strip)
        assert caught.value.reason == "too-large"


def test_over_long_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINE", 150)
    long = {**GOOD, "expression": "x" * 400}
    with pytest.raises(DataError, match="line 2: longer than 150 bytes"):
        opened(root, GOOD, long)
    last = {**GOOD, "expression": "after it"}
    source = opened(root, GOOD, long, last, max_failures=1)
    assert [row.sent for row in source.sentences] == ["red cup", "after it"]


def test_empty_file_missing_file_and_split(root: Path) -> None:
    with pytest.raises(DataError, match="holds no record"):
        opened(root, "")
    with pytest.raises(MissingError):
        open_dataset(root / "none.jsonl")
    with pytest.raises(DataError, match="no split 'val': mine has train"):
        opened(root, GOOD, split="val")


def test_train_images_in_an_evaluation_split_are_leaks(root: Path) -> None:
    b = {**GOOD, "image": "images/b.png"}
    records = [GOOD, b, {**b, "split": "val"}]
    source = opened(root, *records, split="train")
    assert len(source.images) == 2
    assert "leak: mine train shares 1 image (1 ref) with mine val" in source.notices
    source = opened(root, *records, split="train", exclude_eval_images=True)
    assert [record.path for record in source.images] == ["images/a.png"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)


@settings(
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.dictionaries(st.sampled_from(module.FIELDS), VALUES))
def test_any_object_is_a_record_or_a_data_error(root: Path, changes: dict[str, Any]) -> None:
    try:
        opened(root, {**GOOD, **changes})
    except (DataError, MissingError):
        pass


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (json.dumps([GOOD, GOOD]).encode(), "is one JSON array"),
        (json.dumps([GOOD, GOOD], indent=1).encode(), "is one JSON array"),
        (b"\xef\xbb\xbf" + json.dumps([GOOD]).encode(), "is one JSON array"),
        (json.dumps(GOOD, indent=2).encode(), "is JSON over several lines"),
        (json.dumps(GOOD).encode("utf-16"), "UTF-16"),
        (json.dumps(GOOD).encode("utf-16-le"), "UTF-16"),
        (json.dumps(GOOD).encode("utf-32"), "UTF-32"),
        (gzip.compress(json.dumps(GOOD).encode()), "is compressed"),
    ],
    ids=range(8),
)
def test_another_form_of_file_gets_one_hint(data: bytes, hint: str, root: Path) -> None:
    path = root / "mine.jsonl"
    path.write_bytes(data)
    for allowed in (0, None):
        with pytest.raises(DataError) as caught:
            open_dataset(path, max_failures=allowed)
        (problem,) = caught.value.problems
        assert problem.startswith(f"{path}: ") and hint in problem


def test_lines_are_reported_in_the_order_of_the_file(root: Path) -> None:
    bad_mask, bad_text = {**GOOD, "mask": [[1, 2]]}, {**GOOD, "expression": ""}
    gone = {**GOOD, "image": "gone.png"}
    with pytest.raises(DataError) as caught:
        opened(root, bad_mask, bad_text, gone, bad_mask, "{", GOOD)
    where = f"{root / 'mine.jsonl'}: "
    assert [line.removeprefix(where)[:7] for line in caught.value.problems] == [
        "line 1:", "line 2:", "line 4:", "line 5:", "line 3:",
    ]  # fmt: skip
    assert "gone.png: missing" in caught.value.problems[-1] and caught.value.found == 5


@pytest.mark.parametrize(
    "text", ["\u200b", "\u200b \ufeff", "\u2060", "\u3164", "\u00ad", "\u0301"]
)
def test_invisible_expressions_are_empty(text: str, root: Path) -> None:
    with pytest.raises(DataError, match="is empty: it holds invisible characters only"):
        opened(root, {**GOOD, "expression": text})
    assert opened(root, {**GOOD, "expression": f"{text}cup"}).sentences


def save_mask(path: Path, pixels: Any, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path)


@pytest.mark.parametrize("kind", ["grey", "bilevel", "palette", "rgb", "16-bit", "one"])
def test_masks_in_png_files(kind: str, root: Path) -> None:
    mask = np.zeros((12, 16), np.bool_)
    mask[3:9, 2:14] = True
    path = root / "masks" / "1.png"
    match kind:
        case "grey":
            save_mask(path, (mask * 255).astype(np.uint8))
        case "one":
            save_mask(path, mask.astype(np.uint8))
        case "bilevel":
            save_mask(path, mask)
        case "16-bit":
            save_mask(path, mask.astype(np.uint16) * 300)
        case "rgb":
            save_mask(path, np.dstack([mask * 0, mask * 0, mask * 9]).astype(np.uint8))
        case "palette":
            path.parent.mkdir()
            image = Image.fromarray(mask.astype(np.uint8)).convert("P")
            image.putpalette([0, 0, 0, 0, 0, 0])  # black on black: the index counts
            image.save(path)
    source = opened(root, {**GOOD, "mask": "masks/1.png"})
    assert list(source.masks.values()) == [rle.encode(mask)]


def test_a_mask_file_belongs_to_the_source(root: Path) -> None:
    """Another mask under the same name is another source, and so another table and cache."""
    pixels = np.zeros((12, 16), np.uint8)
    pixels[2:5] = 255
    save_mask(root / "1.png", pixels)
    record = {**GOOD, "mask": "1.png"}
    first = opened(root, record, {**record, "expression": "again"}).sha256
    assert opened(root, record, {**record, "expression": "again"}).sha256 == first
    save_mask(root / "1.png", 255 - pixels)
    assert opened(root, record, {**record, "expression": "again"}).sha256 != first
    assert set(first) == {"mine.jsonl", "mask files"}


def test_mask_files_below_the_image_folder(root: Path) -> None:
    save_mask(root / "images" / "m.png", np.ones((12, 16), np.uint8))
    record = {**GOOD, "image": "a.png", "mask": "m.png"}
    assert opened(root, record, images=root / "images").masks


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("gone.png", "no mask file 'gone.png' in "),
        ("../m.png", "holds a .. component"),
        ("/etc/m.png", "is an absolute path"),
        ("out.png", "leads outside the folder by a link"),
        ("small.png", "'small.png' is 5x5, the photograph 12x16"),
        ("alpha.png", "save the mask as 8-bit grey"),
        ("jpeg.png", "a mask is a PNG, not JPEG"),
        ("text.png", "not-an-image"),
        ("m.npy", "nor the name of a .png file"),
    ],
)
def test_bad_mask_files_name_line_and_rule(name: str, rule: str, root: Path) -> None:
    save_mask(root / "small.png", np.ones((5, 5), np.uint8))
    save_mask(root / "alpha.png", np.ones((12, 16, 4), np.uint8))
    Image.new("L", (16, 12), 255).save(root / "jpeg.png", "JPEG")
    (root / "text.png").write_text("x")
    (root / "out.png").symlink_to("/etc/hostname")
    with pytest.raises(DataError) as caught:
        opened(root, GOOD, {**GOOD, "mask": name})
    (problem,) = caught.value.problems
    assert "line 2: mask: " in problem and rule in problem and problem.isprintable()


def files_of(root: Path, **named: list[dict[str, Any]]) -> Path:
    for name, records in named.items():
        text = "".join(json.dumps(record) + "\n" for record in records)
        (root / f"{name}.jsonl").write_text(text)
    return root


def test_one_file_per_split_is_one_data_set(root: Path) -> None:
    b = {**GOOD, "image": "images/b.png"}
    files_of(root, train=[GOOD, GOOD], val=[b], test=[{**b, "expression": "last"}])
    source = open_dataset(root)
    assert source.name == root.name and set(source.sha256) == {
        "train.jsonl",
        "val.jsonl",
        "test.jsonl",
    }
    for split, count in (("train", 2), ("val", 1), ("test", 1)):
        part = open_dataset(root, split=split)
        assert len(part.expressions) == count and part.name == root.name
    ids = {(row.split, row.sent_id) for row in source.sentences}
    assert ids == {("train", 1), ("train", 2), ("val", 1_000_000_001), ("test", 2_000_000_001)}
    with pytest.raises(DataError) as caught:
        open_dataset(files_of(root, val=[b, {**b, "mask": [[1]]}]))
    (problem,) = caught.value.problems
    assert problem.startswith(f"{root}: val.jsonl line 2: mask")


@pytest.mark.parametrize(
    ("names", "fits"),
    [
        (("train", "valid"), True),
        (("train", "validation", "test"), True),
        (("cups_train", "cups_val"), True),
        (("cups-train", "cups.val"), True),
        (("train", "mugs_val"), False),
        (("train", "val", "valid"), False),
        (("train", "more"), False),
        (("a", "b"), False),
    ],
)
def test_which_names_are_splits(names: tuple[str, ...], fits: bool, root: Path) -> None:
    files_of(root, **{name: [GOOD] for name in names})
    if fits:
        assert len(open_dataset(root, split="val").expressions) == 1
    else:
        with pytest.raises(DataError, match="name one; files called train.jsonl, val.jsonl"):
            open_dataset(root)


@pytest.mark.parametrize(
    ("name", "split"),
    [("val", "val"), ("valid", "val"), ("validation", "val"), ("test", "test"), ("Val", "val"),
     ("cups_val", "val"), ("train", "train"), ("cups", "train"), ("contest", "train")],
)  # fmt: skip
def test_a_file_is_the_split_it_is_named_after(name: str, split: str, root: Path) -> None:
    files_of(root, **{name: [GOOD, GOOD]})
    path = root / f"{name}.jsonl"
    source = open_dataset(path, split=split)
    assert len(source.expressions) == 2
    told = [n for n in source.notices if "by the file's name" in n]
    assert bool(told) == (name not in ("cups", "contest"))
    other = "val" if split != "val" else "test"
    with pytest.raises(
        DataError, match=f"no split '{other}': .*rename it, or give the lines a `split`"
    ):
        open_dataset(path, split=other)


def test_a_line_that_names_its_split_has_it(root: Path) -> None:
    files_of(root, val=[GOOD, {**GOOD, "split": "train"}])
    assert len(open_dataset(root / "val.jsonl", split="train").expressions) == 1
    with pytest.raises(DataError) as caught:
        open_dataset(root / "val.jsonl", split="test")
    assert str(caught.value) == "no split 'test': val has train, val"


def test_every_line_is_accounted_for(root: Path) -> None:
    """A sentence, a fault, or blank: nothing between."""
    rng = np.random.default_rng(0)
    kinds = [GOOD, {**GOOD, "mask": [[1]]}, "{", "", {**GOOD, "image": "gone.png"}, {**GOOD, "mask": []},
             {**GOOD, "mask": [[100, 1, 120, 1, 110, 9]]}, "[]", {**GOOD, "split": "dev"}]  # fmt: skip
    for _ in range(20):
        lines = [kinds[i] for i in rng.integers(0, len(kinds), 40)]
        source = opened(root, *lines, max_failures=1000)
        blank = sum(line == "" for line in lines)
        assert len(source.sentences) + source.faults.found + blank == 40


def test_a_linked_photograph_is_quarantined_not_refused(root: Path) -> None:
    """What lies in a file is not trusted: a name may not lead outside, but it stops nothing."""
    Image.new("RGB", (16, 12)).save(root.parent / f"{root.name}-outside.png")
    (root / "images" / "link.png").symlink_to(root.parent / f"{root.name}-outside.png")
    source = opened(root, GOOD, {**GOOD, "image": "images/link.png"})
    assert len(source.images) == 2 and len(source.expressions) == 1
    assert any("will be quarantined: unsafe-path" in n and "link.png" in n for n in source.notices)
    assert check(root / "mine.jsonl").lines()[0].endswith("usable; 1 photograph quarantined")
