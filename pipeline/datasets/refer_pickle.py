"""Safe unpickler for REFER's `refs(*.p)`: no globals at all, not even builtins.

Published loaders call `pickle.load` on these files, and a pickle can run any code. REFER's lists,
dicts, strings and numbers need no global, so every opcode of a file is looked at before anything
is built, and whatever does not build those is refused. So is a memo index larger than the file:
Python's C unpickler would fill gigabytes for a ten-byte file.
"""

import io
import pickle
import pickletools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ..display import quote, show
from ..errors import DataError, MissingError

MAX_BYTES = 256 << 20
MAX_NODES = 20_000_000  # refs, sentences and tokens; shared references count each time
MAX_TEXT = 10_000  # characters of one string

_OPCODES = """
    PROTO STOP FRAME MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG
    LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE
    BINUNICODE8 EMPTY_LIST EMPTY_TUPLE EMPTY_DICT LIST TUPLE DICT APPEND APPENDS SETITEM SETITEMS
    TUPLE1 TUPLE2 TUPLE3 GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE
"""
_BY_CODE = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
_REF_INTS = ("ref_id", "image_id", "category_id")


@dataclass(frozen=True, slots=True)
class Ref:
    """One referred object of a REFER file; `sentences` are (sent_id, sent) in file order."""

    ref_id: int
    ann_id: int
    image_id: int
    split: str
    sentences: tuple[tuple[int, str], ...]


def load_refs(
    path: Path, on_bad: Callable[[str], None] | None = None
) -> tuple[list[Ref], list[str]]:
    """The refs of a REFER pickle in file order, and notices. DataError names file and rule.

    A ref with a missing or wrong field is left out and described to `on_bad`; without it, an error.
    """
    data = _read(path)
    try:
        return _to_refs(_load(data, "utf-8", path), path, on_bad), []
    except UnicodeError:
        notice = f"{show(path.name)}: strings are not UTF-8; read as Latin-1 (a Python 2 file)"
    try:
        return _to_refs(_load(data, "latin1", path), path, on_bad), [notice]
    except UnicodeError:  # a text opcode, which is UTF-8 whatever the encoding
        raise _refused(path, "damaged: a string is not UTF-8") from None


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise MissingError(f"no REFER file {show(str(path))}")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise DataError(f"{show(str(path))}: {size} bytes; a REFER file has at most {MAX_BYTES}")
    return path.read_bytes()


class _Refused(pickle.UnpicklingError):
    """The file asks for something REFER files do not need."""


class _BadRef(Exception):
    """One ref is wrong; the message names it."""


class _PlainUnpickler(pickle.Unpickler):
    """A second wall behind `_check_opcodes`: no name is ever looked up."""

    def find_class(self, module_name: str, global_name: str) -> NoReturn:
        raise _Refused(f"asks for the global {module_name}.{global_name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise _Refused(f"asks for the persistent object {pid!r}")


def _opcodes(data: bytes) -> Iterator[tuple[Any, Any]]:
    """(opcode, argument) as `pickletools.genops` gives them, but the bytes of a STRING, which in files
    of Python 2 need not be ASCII.
    """
    stream, code = io.BytesIO(data), b""
    while code != b".":
        code = stream.read(1)
        opcode = _BY_CODE.get(code)
        if opcode is None:
            raise ValueError(f"{code!r} is no opcode" if code else "ends without STOP")
        if opcode.name == "STRING":
            yield opcode, pickletools.read_stringnl(stream, decode=False)
        else:
            yield opcode, opcode.arg and opcode.arg.reader(stream)


def _check_opcodes(data: bytes) -> None:
    allowed = frozenset(_OPCODES.split())
    texts: deque[object] = deque(maxlen=2)  # STACK_GLOBAL takes the names from the two before it
    for opcode, argument in _opcodes(data):
        name = opcode.name
        if name in ("GLOBAL", "STACK_GLOBAL"):
            asked = str(argument).replace(" ", ".") if argument else ".".join(map(str, texts))
            raise _Refused(f"asks for the global {asked}")
        if name not in allowed:
            raise _Refused(f"uses the pickle opcode {name}")
        if name.endswith(("PUT", "GET")) and int(argument or 0) > len(data):
            raise _Refused(f"has a memo index of {argument}, beyond its own length")
        if isinstance(argument, str):
            texts.append(argument)


def _load(data: bytes, encoding: str, path: Path) -> object:
    try:
        _check_opcodes(data)
        return _PlainUnpickler(io.BytesIO(data), fix_imports=False, encoding=encoding).load()
    except _Refused as error:
        raise _refused(
            path, f"{error}; a REFER file needs none, so this one is not opened"
        ) from None
    except UnicodeError:
        raise
    except Exception as error:  # noqa: BLE001  damaged bytes raise whatever they happen to meet
        raise _refused(
            path,
            "damaged or cut off, or not a pickle of lists and dicts "
            f"({type(error).__name__}: {error})",
        ) from None


def _to_refs(value: object, path: Path, on_bad: Callable[[str], None] | None) -> list[Ref]:
    if not isinstance(value, list):
        raise _refused(path, f"holds {type(value).__name__}, expected a list of refs")
    checked = _Checked(path)
    refs: list[Ref] = []
    for index, item in enumerate(value):
        try:
            refs.append(checked.ref(item, f"ref {index}"))
        except _BadRef as error:
            if on_bad is None:
                raise _refused(path, str(error)) from None
            on_bad(show(str(error), 300))
    return refs


class _Checked:
    """Fields of the refs of one file; its values are counted against MAX_NODES.

    `where` names the ref in the messages of _BadRef.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.left = path, MAX_NODES

    def ref(self, item: object, where: str) -> Ref:
        """DataError if the whole file is refused, _BadRef if this ref is wrong."""
        ref = self._dict(item, where)
        if isinstance(ref.get("ann_id"), list):
            raise _refused(
                self.path, f"{where}: ann_id is a list: gRefCOCO is another task, not supported"
            )
        numbers = {key: _id(_get(ref, key, where), key, where) for key in (*_REF_INTS, "ann_id")}
        where = f"ref_id {numbers['ref_id']}"
        _text(_get(ref, "file_name", where), where)
        ids = [_id(i, "sent_ids", where) for i in self._list(ref, "sent_ids", where)]
        sentences = tuple(self._sentence(s, where) for s in self._list(ref, "sentences", where))
        if sorted(ids) != sorted(sent_id for sent_id, _ in sentences):
            raise _BadRef(f"{where}: sent_ids do not match its sentences")
        split = _text(_get(ref, "split", where), where)
        return Ref(numbers["ref_id"], numbers["ann_id"], numbers["image_id"], split, sentences)

    def _sentence(self, item: object, where: str) -> tuple[int, str]:
        sentence = self._dict(item, f"{where}, sentence")
        for token in self._list(sentence, "tokens", where):
            _text(token, where)
        _text(_get(sentence, "raw", where), where)
        sent = _text(_get(sentence, "sent", where), where)
        return _id(_get(sentence, "sent_id", where), "sent_id", where), sent

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
            raise _refused(self.path, f"holds more than {MAX_NODES} values")


def _get(record: dict[object, object], key: str, where: str) -> object:
    if key not in record:
        raise _BadRef(f"{where}: {key} is missing")
    return record[key]


def _id(value: object, key: str, where: str) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise _BadRef(f"{where}: {key} {quote(value)} is not an id")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or "\0" in value:
        raise _BadRef(f"{where}: {quote(value)} is not a plain string")
    return value


def _refused(path: Path, rule: str) -> DataError:
    return DataError(f"{show(str(path))}: {show(rule, 300)}")
