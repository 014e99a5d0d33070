"""Refs of a REFER file as checked records.

Sets of the REFER family differ in two fields:

| set                   | `ann_id`                           | flag of a sentence             |
|-----------------------|------------------------------------|--------------------------------|
| RefCOCO/+/g, RefCLEF  | an id                              |                                |
| gRefCOCO              | a list of ids; [-1]: no target     |                                |
| Ref-ZOM               | an id or a list; []: no target     | (`source` of the ref: zero)    |
| FP-RefCOCO/+/g        | an id, of the object that is there | `is_false_premise`: no target  |
| R-RefCOCO/+/g         | an id, of the object that is there | `exist` false: no target       |

(henghuiding/ReLA grefer.py, toggle1995/RIS-DMMI refer.py, see-say-segment/sesame test_dataset.py)
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..display import quote, show
from ..io.json_files import read_json
from .refer_pickle import MAX_BYTES, read_plain, refused

MAX_NODES = 20_000_000  # refs, sentences and tokens; shared references count each time
MAX_TEXT = 10_000  # characters of one string
_UNUSED = ("file_name", "sent_ids")  # checked where they are; gRefCOCO need not have them


class RefSentence(NamedTuple):
    """One expression; `exists` is False where it describes nothing in the image."""

    sent_id: int
    sent: str
    exists: bool = True


@dataclass(frozen=True, slots=True)
class Ref:
    """The expressions, in file order, of one target: one object, several, or none."""

    ref_id: int
    ann_ids: tuple[int, ...]
    image_id: int
    split: str
    sentences: tuple[RefSentence, ...]


def load_refs(
    path: Path, on_bad: Callable[[str], None] | None = None
) -> tuple[list[Ref], list[str]]:
    """The refs of a REFER pickle or JSON file in file order, and notices.

    A ref with a missing or wrong field is left out and described to `on_bad`; without it, an error.
    DataError names file and rule.
    """
    if path.suffix == ".json":
        value, notices = read_json(path, MAX_BYTES), list[str]()
    else:
        value, notices = read_plain(path)
    if not isinstance(value, list):
        raise refused(path, f"holds {type(value).__name__}, expected a list of refs")
    checked = _Checked(path)
    refs: list[Ref] = []
    for index, item in enumerate(value):
        try:
            refs.append(checked.ref(item, f"ref {index}"))
        except _BadRef as error:
            if on_bad is None:
                raise refused(path, str(error)) from None
            on_bad(show(str(error), 300))
    return refs, notices


class _BadRef(Exception):
    """One ref is wrong; the message names it."""


class _Checked:
    """Fields of the refs of one file; its values are counted against MAX_NODES.

    `where` names the ref in the messages of _BadRef.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.left = path, MAX_NODES
        self.unused = _UNUSED if path.name.startswith("grefs") else ()

    def ref(self, item: object, where: str) -> Ref:
        """DataError if the whole file is refused, _BadRef if this ref is wrong."""
        ref = self._dict(item, where)
        numbers = {key: _id(_get(ref, key, where), key, where) for key in ("ref_id", "image_id")}
        where = f"ref_id {numbers['ref_id']}"
        self._ids(ref, "category_id", where)
        objects = self._ids(ref, "ann_id", where)
        sentences = tuple(self._sentence(s, where) for s in self._list(ref, "sentences", where))
        for key in ("file_name", "sent_ids"):
            if key in ref or key not in self.unused:
                self._consistent(ref, key, sentences, where)
        if "source" in ref and (ref["source"] == "zero") != (not objects):
            raise _BadRef(
                f"{where}: source {quote(ref['source'])}, yet ann_id is {quote(ref['ann_id'])}"
            )
        split = _text(_get(ref, "split", where), where)
        return Ref(numbers["ref_id"], objects, numbers["image_id"], split, sentences)

    def _ids(self, ref: dict[object, object], key: str, where: str) -> tuple[int, ...]:
        """An id, or a list of different ids; [-1] is the empty list."""
        value = _get(ref, key, where)
        if not isinstance(value, list):
            return (_id(value, key, where),)
        self._count(len(value))
        ids = () if value == [-1] else tuple(_id(one, key, where) for one in value)
        if key == "ann_id" and len(set(ids)) < len(ids):
            raise _BadRef(f"{where}: {key} {quote(value)} has an id twice")
        return ids

    def _consistent(
        self, ref: dict[object, object], key: str, sentences: tuple[RefSentence, ...], where: str
    ) -> None:
        if key == "file_name":
            _text(_get(ref, key, where), where)
            return
        ids = [_id(i, key, where) for i in self._list(ref, key, where)]
        if sorted(ids) != sorted(one.sent_id for one in sentences):
            raise _BadRef(f"{where}: sent_ids do not match its sentences")

    def _sentence(self, item: object, where: str) -> RefSentence:
        sentence = self._dict(item, f"{where}, sentence")
        for token in self._list(sentence, "tokens", where):
            _text(token, where)
        _text(_get(sentence, "raw", where), where)
        sent = _text(_get(sentence, "sent", where), where)
        exists = _flag(sentence, "exist", True, where) and not _flag(
            sentence, "is_false_premise", False, where
        )
        return RefSentence(_id(_get(sentence, "sent_id", where), "sent_id", where), sent, exists)

    def _dict(self, value: object, where: str) -> dict[object, object]:
        self._count(1)
        if not isinstance(value, dict):
            raise _BadRef(f"{where}: {quote(value)} is not a dict")
        return value

    def _list(self, record: dict[object, object], key: str, where: str) -> list[object]:
        value = _get(record, key, where)
        if not isinstance(value, list):
            raise _BadRef(f"{where}: {key} {quote(value)} is not a list")
        self._count(len(value))
        return value

    def _count(self, nodes: int) -> None:
        self.left -= nodes
        if self.left < 0:
            raise refused(self.path, f"holds more than {MAX_NODES} values")


def _get(record: dict[object, object], key: str, where: str) -> object:
    if key not in record:
        raise _BadRef(f"{where}: {key} is missing")
    return record[key]


def _id(value: object, key: str, where: str) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:  # `refer_targets` doubles ids
        raise _BadRef(f"{where}: {key} {quote(value)} is not an id")
    return value


def _flag(record: dict[object, object], key: str, default: bool, where: str) -> bool:
    value = record.get(key, default)
    if not isinstance(value, bool):
        raise _BadRef(f"{where}: {key} {quote(value)} is not true or false")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or "\0" in value:
        raise _BadRef(f"{where}: {quote(value)} is not a plain string")
    return value
