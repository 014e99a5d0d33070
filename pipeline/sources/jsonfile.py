"""Bounded JSON: size and depth caps, no NaN, and errors that name line and column."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ..errors import DataError, MissingError
from ..text import show

MAX_BYTES = 2 << 30  # COCO's instances_train2017.json has 0.45 GB
MAX_DEPTH = 16


def read_json(path: Path, max_bytes: int = MAX_BYTES) -> object:
    """The value in a JSON file. MissingError, or a DataError naming file, line and column."""
    if not path.is_file():
        raise MissingError(f"no such file: {show(str(path), 300)}")
    size = path.stat().st_size
    if size > max_bytes:
        raise DataError(f"{show(str(path), 300)}: {size} bytes; at most {max_bytes}")
    return parse_json(path.read_bytes(), show(str(path), 300))


def parse_json(data: bytes, where: str) -> object:
    """The value of UTF-8 JSON. DataError for bad UTF-8, syntax, NaN or Infinity."""
    return _parse(data, where, json.JSONDecoder(parse_constant=_no_constant))


def parse_line(data: bytes, where: str) -> object:
    """`parse_json` of one line of JSONL, which also refuses keys given twice and deep nesting."""
    decoder = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_unique)
    value = _parse(data.rstrip(b"\r\n"), where, decoder, one_line=True)
    if _too_deep(value):
        raise DataError(f"{where}: nested more than {MAX_DEPTH} levels deep")
    return value


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a source file was: hex sha256 and size in bytes."""

    sha256: str
    bytes: int


def fingerprint(path: Path) -> Fingerprint:
    """Digest and size of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Fingerprint(digest, path.stat().st_size)


def _parse(data: bytes, where: str, decoder: json.JSONDecoder, one_line: bool = False) -> object:
    try:
        value: object = decoder.decode(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError as error:
        line = "" if one_line else f"line {error.lineno}, "
        place = f"{line}column {error.colno}"
        raise DataError(f"{where}: not JSON at {place}: {show(error.msg)}") from None
    except RecursionError:
        raise DataError(f"{where}: nested too deeply") from None
    except ValueError as error:  # from our two hooks, and for integers of thousands of digits
        raise DataError(f"{where}: {show(str(error))}") from None
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not allowed")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {show(twice)} is given twice in one object")
    return made


def _too_deep(value: object) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [child for item in level for child in _children(item)]
        if not level:
            return False
    return True


def _children(item: object) -> list[object]:
    if isinstance(item, dict):
        return [child for child in item.values() if isinstance(child, dict | list)]
    if isinstance(item, list):
        return [child for child in item if isinstance(child, dict | list)]
    return []
