"""Whether a photograph is one of ours: a scene this package drew."""

import json
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from .make import SPLITS

DIGEST = "digest.json"
_NAME = re.compile(rf"(?:{'|'.join(SPLITS)})_\d{{6}}\.png")


def is_generated(photographs: Iterable[Path]) -> bool:
    """Whether all `photographs` (one at least) are scenes that `write_scenes` wrote.

    They are known by their names and by the set's digest.json two folders up; none is opened.
    """
    found = False
    for path in photographs:
        if not (_NAME.fullmatch(path.name) and _set_of_scenes(path.parent.parent)):
            return False
        found = True
    return found


@lru_cache(maxsize=256)
def _set_of_scenes(folder: Path) -> bool:
    try:
        with (folder / DIGEST).open("rb") as file:
            found = json.loads(file.read(1 << 16))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.keys() >= {
        "format",
        "seed",
        "splits",
        "size",
        "sha256",
    }
