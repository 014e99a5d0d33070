"""COCO: an instances file and its image folder, in the train2014 and train2017 layouts.

No expressions: every image of the file is listed. `--split train` picks
`annotations/instances_train2017.json` or `..._train2014.json`.
"""

import re
from pathlib import Path

from ..errors import DataError, MissingError
from ..text import show
from .instances import load_instances
from .jsonfile import fingerprint
from .tables import Dataset

_FILE = re.compile(r"instances(?:_([A-Za-z0-9_-]{1,64}))?\.json")


def instance_files(root: Path) -> dict[str, Path]:
    """`instances_<split>.json` files in root/annotations or root, by split ('' if unnamed)."""
    found: dict[str, Path] = {}
    for folder in (root / "annotations", root):
        for child in sorted(folder.iterdir()) if folder.is_dir() else []:
            if match := _FILE.fullmatch(child.name):
                found.setdefault(match[1] or "", child)
    return found


def choose_file(root: Path, split: str | None) -> Path:
    """The instances file for a split: its exact name (train2017) or the name less the year.

    MissingError if there is none, DataError if several fit.
    """
    files = instance_files(root)
    fitting = {k: v for k, v in files.items() if split is None or _fits(k, split)}
    exact = files.get(split or "")
    if exact is not None:
        return exact
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    have = ", ".join(path.name for path in files.values()) or "none"
    if not fitting:
        raise MissingError(f"{show(str(root), 300)}: no instances file for {split}; found: {have}")
    raise DataError(
        f"{show(str(root), 300)}: several instances files fit split {split or 'none given'} "
        f"({', '.join(sorted(fitting))}): name one with --split"
    )


def read_coco(path: Path, *, annotations: bool = False, max_failures: int | None = 0) -> Dataset:
    """All images of an instances file; with `annotations` all its objects too (for checks)."""
    match = _FILE.fullmatch(path.name)
    name = match[1] if match and match[1] else path.stem
    wanted = None if annotations else frozenset[int]()
    images, objects, faults = load_instances(path, name, wanted, max_failures)
    return Dataset(
        kind="coco",
        name=name,
        split_by="",
        root=path.parent,
        images=tuple(images),
        annotations=objects,
        files={path.name: fingerprint(path)},
        faults=faults,
    )


def _fits(name: str, split: str) -> bool:
    return name in ("", split) or re.fullmatch(re.escape(split) + r"\d{4}", name) is not None
