"""Images shared by a training split and an evaluation split, of one data set or several.

RefCOCOg umd train holds val and test images of RefCOCO and RefCOCO+, and the other way round;
published numbers include the overlap. Images are compared by their COCO id, never by file name or
position, so the result does not depend on load order.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..display import counted
from .published_counts import EVAL_SPLITS
from .tables import Dataset, Sentence, Source


@dataclass(frozen=True, slots=True)
class Overlap:
    """Shared images of `train` and one evaluation split; `refs` counts the train refs on them."""

    train: str
    evaluation: str
    images: int
    refs: int


def overlaps(datasets: Sequence[Dataset]) -> list[Overlap]:
    """Every pair (train split, evaluation split) of the datasets, zeros included, sorted."""
    found: list[Overlap] = []
    for train in datasets:
        rows = train.splits().get("train", [])
        for other in datasets:
            for split, held in other.splits().items():
                if not rows or split not in EVAL_SPLITS:
                    continue
                ids = {row.image_id for row in held}
                shared = [row for row in rows if row.image_id in ids]
                images = len({row.image_id for row in shared})
                refs = len({row.ref_id for row in shared})
                found.append(Overlap(train.title, f"{other.title} {split}", images, refs))
    return sorted(found, key=lambda overlap: (overlap.train, overlap.evaluation))


def describe(found: Iterable[Overlap]) -> list[str]:
    """One line per pair that shares images."""
    return [
        f"leak: {o.train} train shares {counted(o.images, 'image')} ({counted(o.refs, 'ref')}) with {o.evaluation}"
        for o in found
        if o.images
    ]


def eval_images(datasets: Iterable[Dataset]) -> frozenset[int]:
    """Ids of all images in a val or test split of any of the datasets."""
    rows = (row for dataset in datasets for row in dataset.sentences)
    return frozenset(row.image_id for row in rows if row.split in EVAL_SPLITS)


def without_images(source: Source, held_out: frozenset[int], notices: Sequence[str] = ()) -> Source:
    """A training source without the `held_out` images and their expressions, and a notice.

    The flag and the counts belong in checkpoints and result files.
    """
    images = tuple(record for record in source.images if record.image_id not in held_out)
    sentences = tuple(row for row in source.sentences if row.image_id not in held_out)
    used = {(row.dataset, row.ann_id) for row in sentences}
    dropped_refs = len(_refs(source.sentences)) - len(_refs(sentences))
    notice = (
        f"exclude_eval_images: dropped {counted(len(source.images) - len(images), 'image')} and "
        f"{counted(dropped_refs, 'ref')} of an evaluation split"
    )
    return replace(
        source,
        images=images,
        sentences=sentences,
        annotations={key: item for key, item in source.annotations.items() if key in used},
        notices=[*source.notices, *notices, notice],
    )


def _refs(sentences: Iterable[Sentence]) -> set[tuple[str, int]]:
    return {(row.dataset, row.ref_id) for row in sentences}
