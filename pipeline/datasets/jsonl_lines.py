"""Lines of a JSONL file: syntax, fields, and the split that the file name implies."""

import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..display import escape, quote, show
from ..errors import DataError
from ..io.json_files import parse_line
from ..io.paths import check_name
from .expressions import expression_problem
from .problems import Problems

MAX_LINE = 16 << 20  # bytes
SPLITS = ("train", "val", "test")
FIELDS = ("image", "expression", "mask", "id", "object", "split", "dataset")
_NAMED = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_STEM = re.compile(rf"(?:(.+)[-_.])?({'|'.join(_NAMED)})", re.IGNORECASE)
FILE_IDS = 1_000_000_000  # sentence ids of a folder's files: file number times this, plus the line


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a data set.

    label   how messages name it before the line; empty where the file is named already
    split   of lines that name none
    first   added to line numbers to give ids
    """

    path: Path
    dataset: str
    split: str = "train"
    label: str = ""
    first: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """One record whose own fields are good; the mask is not looked at yet."""

    part: Part
    line: int
    image: str
    expression: str
    mask: object
    key: str
    object: str | None
    split: str
    dataset: str
    splitless: bool

    @property
    def number(self) -> int:
        """Its place in the data set, and its sentence id."""
        return self.part.first + self.line

    @property
    def where(self) -> str:
        """Name of the record in messages."""
        return f"{self.part.label}line {self.line}"


def split_of(name: str) -> tuple[str, str | None]:
    """(prefix, split) of a file's stem; the split is None where the name says none.

    >>> split_of("cups_valid"), split_of("train"), split_of("cups"), split_of("contest")
    (('cups', 'val'), ('', 'train'), ('cups', None), ('contest', None))
    """
    match = _STEM.fullmatch(name)
    return (match[1] or "", _NAMED[match[2].lower()]) if match else (name, None)


def as_parts(files: Sequence[Path]) -> list[Part] | None:
    """The files as splits of one data set, named after their folder; None if they are not.

    They are if each name ends in another split and begins alike: train.jsonl with val.jsonl.
    """
    named = {path: split_of(path.stem) for path in files}
    prefixes = {prefix for prefix, _ in named.values()}
    splits = [split for _, split in named.values()]
    if None in splits or len(set(splits)) < len(files) or len(prefixes) != 1:
        return None
    name = prefixes.pop() or files[0].resolve().parent.name
    return [
        Part(path, name, split, f"{show(path.name, 40)} ", SPLITS.index(split) * FILE_IDS)
        for path, (_, split) in sorted(named.items(), key=lambda item: str(item[1][1]))
        if split is not None
    ]


def read_lines(part: Part, problems: Problems, notices: list[str]) -> Iterator[Line]:
    """The good lines of a file; what is wrong with the others goes to `problems`."""
    unknown: set[str] = set()
    if hint := _other_form(part.path):
        problems.add(f"{part.label}{hint}" if part.label else hint, part.first)
        return
    seen: dict[str, int] = {}
    with part.path.open("rb") as file:
        number = 0
        while data := file.readline(MAX_LINE + 1):
            number += 1
            where, place = f"{part.label}line {number}", part.first + number
            if len(data) > MAX_LINE:
                problems.add(f"{where}: longer than {MAX_LINE} bytes", place)
                while data and not data.endswith(b"\n"):
                    data = file.readline(MAX_LINE)
                continue
            if not data.strip():
                continue
            try:
                record = parse_line(data, where)
                line = _line(record, number, part)
            except DataError as error:
                problems.add(error, place)
                continue
            unknown |= set(record) - set(FIELDS) if isinstance(record, dict) else set()
            first = seen.setdefault(line.key, number)
            if first != number:
                problems.add(f"{where}: id {quote(line.key)} is that of line {first}", place)
                continue
            yield line
    if unknown:
        names = ", ".join(show(name, 40) for name in sorted(unknown)[:10])
        notices.append(f"{show(part.path.name)}: unknown fields are ignored: {names}")


def _other_form(path: Path) -> str | None:
    """Recognise a file that is not JSONL: its format and the remedy; None if it may be JSONL.

    One line for the file: each of its lines would be an error that says nothing.
    """
    with path.open("rb") as file:
        head = file.read(4096)
    if head[:2] == b"\x1f\x8b":
        return "is compressed: unpack it (gunzip)"
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in head[:64]:
        return "is not UTF-8 but UTF-16 or UTF-32: save it as UTF-8 (iconv -f UTF-16 -t UTF-8)"
    lines = [line.strip() for line in head.removeprefix(b"\xef\xbb\xbf").split(b"\n")]
    first, second, *_ = [*filter(None, lines), b"", b""]
    objects = first[1:].lstrip()[:1] == b"{" and (not second or b"," in (first[-1:], second[:1]))
    if first[:1] == b"[" and (objects or (first == b"[" and second[:1] == b"{")):
        return (
            "is one JSON array, not one object per line: write each of its elements on a line of "
            "its own (jq -c '.[]' FILE)"
        )
    if first == b"{" and second[:1] == b'"':
        return "is JSON over several lines: write each object on one line (jq -c . FILE)"
    return None


def _line(record: object, number: int, part: Part) -> Line:
    where = f"{part.label}line {number}"
    if not isinstance(record, dict):
        raise DataError(f"{where}: {quote(record)} is not an object")
    if missing := [name for name in FIELDS[:3] if name not in record]:
        raise DataError(f"{where}: {', '.join(missing)} missing")
    texts = {name: _text(record, name, where) for name in FIELDS if name != "mask"}
    if problem := expression_problem(texts["expression"] or ""):
        raise DataError(f"{where}: expression {quote(texts['expression'])} {problem}")
    split = texts["split"] or part.split
    if split not in SPLITS:
        raise DataError(f"{where}: split {quote(split)} is not one of {', '.join(SPLITS)}")
    return Line(
        part=part,
        line=number,
        image=posixpath.normpath(check_name(texts["image"], where)),
        expression=(texts["expression"] or "").strip(),
        mask=record["mask"],
        key=texts["id"] or str(number),
        object=texts["object"],
        split=split,
        dataset=texts["dataset"] or part.dataset,
        splitless=texts["split"] is None,
    )


def _text(record: dict[str, object], name: str, where: str) -> str | None:
    value = record.get(name)
    if value is None and name not in record:
        return None
    if not isinstance(value, str) or (name != "expression" and (not value or len(value) > 4096)):
        raise DataError(f"{where}: {name} {quote(value)} is not a string of 1..4096 characters")
    if name in ("id", "object", "dataset") and escape(value) != value:
        raise DataError(f"{where}: {name} {quote(value)} holds a control character")
    return value
