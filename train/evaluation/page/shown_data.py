"""Photographs and targets behind a result file, found by the record of the run it belongs to."""

import logging
from dataclasses import dataclass
from pathlib import Path

from ....pipeline.datasets import open_dataset
from ....pipeline.display import show
from ....pipeline.errors import DataError, SvpError
from ....pipeline.masks import rle
from ....pipeline.records import Rle
from ...trainer.run_data import read_run_data
from ..results import Row
from .gallery import Targets

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShownData:
    """Photographs and targets beside the answers of a page.

    images   folder or address of the photographs, None: not known
    targets  the true mask of a sentence, None where it is not known
    """

    images: Path | None
    targets: Targets


def nothing(row: Row) -> Rle | None:
    """Targets where none are known."""
    return None


def data_behind(results: Path, split: str, images: Path | None = None) -> ShownData:
    """The data of RUN for a file RUN/eval/*.jsonl of a split, else what `images` names.

    A target that is not the one that was evaluated, by its pixels, is not shown.
    """
    try:
        known = read_run_data(results.absolute().parent.parent)
        if known is None:
            lacks = "targets" if images else "photographs and targets: --images names their folder"
            log.info(
                f"{show(str(results), 300)} is in no folder of a run: the page is without {lacks}"
            )
            return ShownData(images, nothing)
        used = known.of(split) or known.training
        source = open_dataset(
            used.dataset, images=images or used.images, photos=False, split=split or None,
            root=used.root, split_by=used.split_by, allow_google=used.allow_google,
            allow_counts=used.allow_counts, allow_empty=used.allow_empty,
            max_failures=used.max_failures,
        )  # fmt: skip
    except SvpError as error:  # moved or changed since: the answers are shown without
        log.info(f"the page is without targets: {error}")
        return ShownData(images, nothing)
    named = {(row.dataset, row.sent_id): row.ann_id for row in source.sentences}

    def target(row: Row) -> Rle | None:
        annotation = source.annotations.get(
            (row.dataset, named.get((row.dataset, row.sent_id), -1))
        )
        try:
            mask = None if annotation is None else annotation.mask()
        except DataError:
            return None
        if mask is None or (mask.height, mask.width) != (row.height, row.width):
            return None
        return mask if rle.area(mask) == row.target else None

    return ShownData(images or source.image_root, target)
