"""The cache's JSON files: one canonical form, bounded strict reading.

A file of ours is exactly the canonical form of its content, so equal content means equal bytes,
and a changed, added or doubled byte is seen even where JSON would still parse.
"""

import json
import os
import stat
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import CacheError
from ..text import show

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


def parse_model(model: type[Model], data: bytes, path: Path) -> Model:
    """`data` as `model`, only if it is the canonical form of it. Raises CacheError."""
    value = parse_checked(model, data, path)
    if canonical(value.model_dump(mode="json")) != data:
        raise CacheError(f"{show(str(path), 300)}: damaged: not in canonical form")
    return value


def parse_checked(model: type[Model], data: bytes, path: Path) -> Model:
    """`data` as `model`; for files whose bytes a checksum already vouches for. Raises CacheError."""
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise CacheError(f"{show(str(path), 300)}: damaged: {_first(error)}") from None


def _first(error: ValidationError) -> str:
    item = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in item["loc"]) or "file"
    return f"{show(name)}: {show(item['msg'])}"
