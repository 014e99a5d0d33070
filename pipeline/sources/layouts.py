"""Where a dataset's photographs lie: the folder layouts people have, tried in a fixed order.

COCO file names carry no folder, so the root is found by trying: given folders first, then the
layouts of COCO itself, GLaMM and LISA beside the annotations (data spec 5).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import MissingError
from ..text import show
from .tables import Dataset

LAYOUTS = {
    ".": "directly in the folder",
    "images": "images/",
    "train2014": "COCO train2014/",
    "train2017": "COCO train2017/",
    "val2014": "COCO val2014/",
    "val2017": "COCO val2017/",
    "coco_2014/train2014": "GLaMM coco_2014/train2014/",
    "coco_2017/train2017": "GLaMM coco_2017/train2017/",
    "images/mscoco/images/train2014": "LISA images/mscoco/images/train2014/",
    "refer_seg/images/mscoco/images/train2014": "LISA refer_seg/images/mscoco/images/train2014/",
}
_PROBES = 50


@dataclass(frozen=True, slots=True)
class Found:
    """An image root and the layout that matched."""

    root: Path
    layout: str


def find_images(names: Sequence[str], images: Path | None, near: Iterable[Path]) -> Found:
    """The folder that holds the files `names` (relative, checked).

    `images` alone is searched if given, else `near` (the annotations' folder and those above).
    The folder with most of a spread of 50 names wins; ties go to the first in `LAYOUTS`' order.
    MissingError lists where it looked when not one file of `names` was found.
    """
    bases = [images] if images is not None else list(dict.fromkeys(near))
    if images is not None and not images.is_dir():
        raise MissingError(f"no image folder {show(str(images), 300)}")
    step = max(1, len(names) // _PROBES)
    for probe in (names[::step], names):
        best = max(_candidates(bases), key=lambda found: _hits(found.root, probe), default=None)
        if best is not None and _hits(best.root, probe):
            return best
    looked = ", ".join(show(str(base), 200) for base in bases)
    example = show(names[0]) if names else "none"
    raise MissingError(
        f"none of {len(names)} images (such as {example}) found in {looked}, "
        f"nor in its folders {', '.join(list(LAYOUTS)[1:])}: give the folder with --images"
    )


def image_root(datasets: Sequence[Dataset], images: Path | None, names: Sequence[str]) -> Found:
    """Where the images of loaded datasets lie; a JSONL file and a folder say it themselves."""
    first = datasets[0]
    if first.kind in ("folder", "jsonl"):
        return Found(images if images is not None and first.kind == "jsonl" else first.root, "own")
    return find_images(names, images, (a for d in datasets for a in _around(d.root)))


def _around(folder: Path) -> tuple[Path, ...]:
    here = folder.resolve()
    return (here, here.parent, here.parent.parent)


def _candidates(bases: Iterable[Path]) -> list[Found]:
    made = [Found(base / folder, label) for base in bases for folder, label in LAYOUTS.items()]
    return [found for found in made if found.root.is_dir()]


def _hits(root: Path, names: Sequence[str]) -> int:
    return sum((root / name).is_file() for name in names)
