"""Whether photographs are scenes this package drew: what the tiny weights were trained on.

The mark is `digest.json`, which `write_scenes` writes last. A picture that somebody put beside the
scenes bears another name or number, so it is told apart.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from .make import SPLITS

DIGEST = "digest.json"
_NAME = re.compile(rf"({'|'.join(SPLITS)})_(\d{{6}})\.png")
_FIELDS = {"format", "seed", "splits", "size", "sha256"}


def is_generated(photographs: Iterable[Path]) -> bool:
    """Whether all `photographs` (one at least) are scenes that `write_scenes` wrote.

    They are known by their names and by the set's digest.json two folders up; none is opened.
    Raises nothing: what cannot be read was not written by us.
    """
    known: dict[Path, dict[str, int]] = {}
    for path in photographs:
        match, folder = _NAME.fullmatch(path.name), path.parent
        if match is None:
            return False
        if folder not in known:
            known[folder] = scenes_in(folder.absolute().parent) if _is_images(folder) else {}
        if int(match[2]) >= known[folder].get(match[1], 0):
            return False
    return bool(known)


def scenes_in(folder: Path) -> dict[str, int]:
    """Scenes by split of a finished folder of `write_scenes`; empty for any other folder."""
    try:
        with (folder / DIGEST).open("rb") as file:
            found = json.loads(file.read(1 << 16))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict) or not found.keys() >= _FIELDS:
        return {}
    splits = found["splits"]
    return {k: n for k, n in splits.items() if type(n) is int} if isinstance(splits, dict) else {}


def _is_images(folder: Path) -> bool:
    return folder.absolute().name == "images"
