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
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from ..display import show
from ..errors import DataError, MissingError
from ..io.json_files import read_data

MAX_BYTES = 256 << 20

_OPCODES = """
    PROTO STOP FRAME MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG
    LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE
    BINUNICODE8 EMPTY_LIST EMPTY_TUPLE EMPTY_DICT LIST TUPLE DICT APPEND APPENDS SETITEM SETITEMS
    TUPLE1 TUPLE2 TUPLE3 GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE
"""
_BY_CODE = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}


def read_plain(path: Path) -> tuple[object, list[str]]:
    """The lists, dicts, strings and numbers of a pickle, and notices about it.

    MissingError if there is no such file; DataError naming file and rule.
    """
    if not path.exists():
        raise MissingError(f"no REFER file {show(str(path))}")
    data = read_data(path, MAX_BYTES)
    try:
        return _load(data, "utf-8", path), []
    except UnicodeError:
        notice = f"{show(path.name)}: strings are not UTF-8; read as Latin-1 (a Python 2 file)"
    try:
        return _load(data, "latin1", path), [notice]
    except UnicodeError:  # a text opcode, which is UTF-8 whatever the encoding
        raise refused(path, "damaged: a string is not UTF-8") from None


def refused(path: Path, rule: str) -> DataError:
    """The error of a file that is not opened, or none of its records used."""
    return DataError(f"{show(str(path))}: {show(rule, 300)}")


class _Refused(pickle.UnpicklingError):
    """The file asks for something REFER files do not need."""


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
        raise refused(
            path, f"{error}; a REFER file needs none, so this one is not opened"
        ) from None
    except UnicodeError:
        raise
    except Exception as error:  # noqa: BLE001  damaged bytes raise whatever they happen to meet
        raise refused(
            path,
            "damaged or cut off, or not a pickle of lists and dicts "
            f"({type(error).__name__}: {error})",
        ) from None
