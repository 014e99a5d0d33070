"""Tasks of lmms-eval for referring segmentation: one document per expression of a local data set.

The union of an answer's masks is scored; gIoU, cIoU, N-acc and T-acc are those of `svp eval`.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ...pipeline.datasets import open_dataset
from ...pipeline.datasets.images import read_record
from ...pipeline.display import quote
from ...pipeline.errors import ConfigError, DataError
from ...pipeline.io.paths import expand
from ...pipeline.records import ImageRecord, Rle
from ...train.metrics import metrics, target_accuracy
from ..mask_text import Pixels, answer_text, count_pixels, counts_of, question

try:
    from lmms_eval.api.task import ConfigurableTask
except ImportError:  # the class is only built by lmms-eval, which is there then
    ConfigurableTask = object

DATASET, IMAGES = "SVP_DATASET", "SVP_IMAGES"
Document = Mapping[str, Any]


class ResTask(ConfigurableTask):  # type: ignore[misc,unused-ignore]
    """One split of the data set that SVP_DATASET names.

    Of its YAML `test_split` is the split, `dataset_name` the data set's name where there are several.
    Raises what `documents` raises.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def download(self, dataset_kwargs: object = None) -> None:
        """Read the data set from this machine, where lmms-eval fetches others."""
        from datasets import Dataset, DatasetDict

        split = self.config.test_split
        rows = documents(split, self.config.dataset_name)
        # Photographs are read by `photographs` alone, so there are no columns of images to drop.
        self.dataset = self.dataset_no_image = DatasetDict({split: Dataset.from_list(rows)})


def documents(split: str, dataset: str | None = None) -> list[dict[str, Any]]:
    """The expressions of a split, in table order; those with a bad mask are left out.

    dataset  only of this one, such as refcocog

    size is (H,W); target and ignore (or "") are COCO RLE counts at that size. Raises ConfigError
    if SVP_DATASET is not set, and what `open_dataset` raises.
    """
    where, images = os.environ.get(DATASET), os.environ.get(IMAGES)
    if not where:
        raise ConfigError(
            f"{DATASET} is not set: name the data set, as --dataset of `svp eval` takes it"
        )
    source = open_dataset(
        where, images=expand(images) if images else None, split=split, max_failures=None
    )
    records = {record.image_id: record for record in source.images}
    found = []
    for row in source.sentences:
        mask = source.good_masks.get((row.dataset, row.ann_id))
        if mask is None or dataset not in (None, row.dataset):
            continue
        ignored = source.ignored(row)
        found.append(
            {
                "dataset": row.dataset,
                "sent_id": row.sent_id,
                "image_id": row.image_id,
                "image_root": str(source.image_root),
                "image": records[row.image_id].path,
                "size": [mask.height, mask.width],
                "expression": row.sent,
                "target": mask.counts.decode("ascii"),
                "ignore": ignored.counts.decode("ascii") if ignored else "",
            }
        )
    if not found:
        named = "" if dataset is None else f" of {quote(dataset)}"
        raise DataError(f"{source.where}: no expression{named} in split {quote(split)}")
    return found


def photographs(document: Document) -> list[Image.Image]:
    """The photograph in the frame of its target, (H,W) as `size` says. Raises ImageError."""
    record = ImageRecord(document["image_id"], document["image"], *document["size"])
    return [Image.fromarray(read_record(Path(document["image_root"]), record))]


def prompt(document: Document) -> str:
    """The question, for models that read one."""
    return question(document["expression"], *document["size"])


def target(document: Document) -> str:
    """The right answer, as a model would write it."""
    return answer_text(_mask(document, "target"))


def score(document: Document, results: Sequence[str]) -> dict[str, Pixels]:
    """Metric -> counts of pixels of the answer, from which the figures of all answers are made."""
    wanted = _mask(document, "target")
    ignored = _mask(document, "ignore") if document["ignore"] else None
    pixels = count_pixels(results[0], wanted, ignored)
    return dict.fromkeys(("gIoU", "cIoU", "N_acc", "T_acc"), pixels)


def g_iou(items: Sequence[Pixels]) -> float:
    """Mean IoU over expressions, in 0..1."""
    return metrics(counts_of(items))["gIoU"]


def c_iou(items: Sequence[Pixels]) -> float:
    """Summed intersections over summed unions, in 0..1."""
    return metrics(counts_of(items))["cIoU"]


def n_acc(items: Sequence[Pixels]) -> float:
    """Share of empty targets that were left empty; NaN without any."""
    return target_accuracy(counts_of(items))[0]


def t_acc(items: Sequence[Pixels]) -> float:
    """Share of other targets that got a mask; NaN without any."""
    return target_accuracy(counts_of(items))[1]


def _mask(document: Document, name: str) -> Rle:
    height, width = document["size"]
    return Rle(height, width, document[name].encode())
