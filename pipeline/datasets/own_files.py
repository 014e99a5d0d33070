"""Recognise svp's own output in an image folder, so that it is not read as images.

Known by what each command leaves, not by the folder's name, which is the user's.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from ..cache.image_list import IMAGES
from ..cache.layout import META, PLAN
from .scenes.generated import scenes_in

_GENERATOR = b'name="generator" content="svp '
_PREDICTION = re.compile(r"(.+)-\d+-(?:mask|overlay)\.png", re.DOTALL)


def own_folder(folder: Path, folders: Iterable[str], files: Iterable[str]) -> str | None:
    """Kind of folder with these entries, if svp wrote it: a word for the notice."""
    below, names = set(folders), set(files)
    if "index.html" in names and _is_page(folder / "index.html"):
        return "page"
    if PLAN in names and META in names and IMAGES in below:
        return "cache"
    if {"env.json", "config.yaml"} <= names:
        return "run"
    if "digest.json" in names and "images" in below and scenes_in(folder):
        return "generated scenes"
    return None


def predictions(names: Iterable[str]) -> set[str]:
    """Those of the file names in one folder that `svp predict` wrote.

    >>> sorted(predictions(["cat.jpg", "cat.json", "cat-1-mask.png", "cat-x-mask.png"]))
    ['cat-1-mask.png']
    """
    known = set(names)
    found: set[str] = set()
    for name in known:
        match = _PREDICTION.fullmatch(name)
        if match and f"{match[1]}.json" in known:
            found.add(name)
    return found


def _is_page(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _GENERATOR in file.read(4096)
    except OSError:
        return False
