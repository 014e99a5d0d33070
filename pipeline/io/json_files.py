"""Strict, bounded JSON: canonical form for files of the cache, any layout for other files.

A file of ours is exactly the canonical form of its content, so equal content means equal bytes,
and a changed, added or doubled byte is seen even where JSON would still parse. Other files are read
with caps on size and depth, without NaN, and errors name line and column.
"""

import hashlib
import json
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ..display import show
from ..errors import CacheError, DataError, MissingError

Model = TypeVar("Model", bound="JsonFile")


class JsonFile(BaseModel):
    """Base of the models stored as files: no unknown keys, no type coercion, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def canonical(value: object) -> bytes:
    """Sorted keys, no spaces, ASCII, one newline at the end."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii") + b"\n"


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes; links and devices are refused.

    Raises CacheError naming the file, also when it is missing.
    """
    try:
        # O_NONBLOCK: a named pipe must be refused, not waited for.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise CacheError(f"{show(str(path), 300)}: cannot be read: {error.strerror}") from None
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise CacheError(f"{show(str(path), 300)}: not a regular file")
        # Asking for `limit` bytes would allocate them, whatever the file has: up to 2 GiB.
        data = file.read(found.st_size + 1) if found.st_size <= limit else b""
    if not data or len(data) > limit:
        raise CacheError(
            f"{show(str(path), 300)}: {found.st_size} bytes, expected 1 to {limit}: "
            "the cache is damaged"
        )
    return data


def parse_model(model: type[Model], data: bytes, path: Path | str) -> Model:
    """`data` as `model`, only if it is the canonical form of it. Raises CacheError."""
    value = parse_checked(model, data, path)
    if canonical(value.model_dump(mode="json")) != data:
        raise CacheError(f"{show(str(path), 300)}: damaged: not in canonical form")
    return value


def parse_checked(model: type[Model], data: bytes, path: Path | str) -> Model:
    """`data` as `model`; for files whose bytes a checksum already vouches for. Raises CacheError."""
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise CacheError(f"{show(str(path), 300)}: damaged: {_first(error)}") from None


def _first(error: ValidationError) -> str:
    item = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in item["loc"]) or "file"
    return f"{show(name)}: {show(item['msg'])}"


MAX_BYTES = 2 << 30  # COCO's instances_train2017.json has 0.45 GB
MAX_DEPTH = 16


def read_json(path: Path, max_bytes: int = MAX_BYTES) -> object:
    """The value in a JSON file. MissingError, or a DataError naming file, line and column."""
    return parse_json(read_data(path, max_bytes), show(str(path), 300))


def read_list(path: Path, max_bytes: int = MAX_BYTES) -> list[object]:
    """The list in a JSON file. Raises as `read_json`, DataError for another value."""
    value = read_json(path, max_bytes)
    if not isinstance(value, list):
        raise DataError(f"{show(str(path), 300)}: not a list of records")
    return value


def read_data(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a file of a data set, which may be a link.

    MissingError if it is not there; DataError if it is no regular file, too large or unreadable.
    """
    where = show(str(path), 300)
    if not path.exists():
        raise MissingError(f"no such file: {where}")
    if not path.is_file():  # a named pipe would be waited for
        raise DataError(f"{where}: not a regular file")
    size = path.stat().st_size
    if size > max_bytes:
        raise DataError(f"{where}: {size} bytes; at most {max_bytes}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{where}: cannot be read: {error.strerror}") from None


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
    """Identity of a source file: hex sha256 and size in bytes."""

    sha256: str
    bytes: int


def fingerprint(path: Path) -> Fingerprint:
    """Digest and size of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Fingerprint(digest, path.stat().st_size)


def fingerprint_of(paths: Sequence[Path]) -> Fingerprint:
    """One digest of many files, in their order, and their size together."""
    found = [fingerprint(path) for path in paths]
    rows = "".join(f"{path.name}\0{one.sha256}\n" for path, one in zip(paths, found, strict=True))
    return Fingerprint(hashlib.sha256(rows.encode()).hexdigest(), sum(one.bytes for one in found))


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
