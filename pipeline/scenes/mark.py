"""Whether photographs are generated scenes: what the tiny weights were trained on, and nothing else.

The mark is `digest.json`, which `write_scenes` writes last. Pictures that somebody put beside the
scenes bear other names, so they are told apart by name and number.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

MARK = "digest.json"
_NAME = re.compile(r"(?:(.*)/)?([A-Za-z]+)_(\d{6})\.png")


def is_generated(root: Path, names: Iterable[str]) -> bool:
    """Whether all photographs `names` (relative to `root`) are scenes of `svp data synth`.

    `root` is the folder of the scenes or its `images`; False for no names at all. Raises nothing:
    what cannot be read is not generated.
    """
    base = Path(root)
    folder, inside = (base.parent, None) if base.resolve().name == "images" else (base, "images")
    splits = _splits(folder)
    seen = False
    for name in names:
        match = _NAME.fullmatch(name)
        if match is None or match[1] != inside or int(match[3]) >= splits.get(match[2], 0):
            return False
        seen = True
    return seen


def _splits(folder: Path) -> dict[str, int]:
    """Scenes per split by the folder's mark; empty without one."""
    try:
        mark = json.loads((folder / MARK).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(mark, dict) or not {"format", "seed", "size", "sha256"} <= mark.keys():
        return {}
    splits = mark.get("splits")
    if not isinstance(splits, dict):
        return {}
    return {name: count for name, count in splits.items() if type(count) is int}
