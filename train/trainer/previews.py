"""Preview images of predictions during training: the same few images each time."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ...model.batch import Batch
from ...model.ris import RisModel
from ...pipeline.cache.reader import spread_over
from ...pipeline.cache.row_reader import RowReader
from ...pipeline.errors import SvpError
from ...pipeline.io.atomic import writing
from ...pipeline.precompute.source_images import read_verified
from ..data.collate import Item, VisualSource, make_batch
from ..data.dialogues import build_dialogue
from ..data.expression_table import ExpressionTable
from ..data.length_check import ANY
from ..data.prompts import fixed_turn
from ..data.tokenizer import Vocabulary

SHOWN = 6
HEIGHT = 240  # pixels of a tile
PREDICTED = np.array([0, 114, 178])  # blue and orange that colour-blind people can tell apart
TARGET = np.array([230, 159, 0])

Pixels = NDArray[np.uint8]


class Previews:
    """Draws the prediction for the first sentence of some images of a table.

    photos  folder of the photographs, or None: masks are then drawn on grey
    out     folder of the pictures
    """

    def __init__(
        self,
        table: ExpressionTable,
        readers: Sequence[RowReader],
        visuals: VisualSource,
        vocab: Vocabulary,
        *,
        photos: Path | None,
        out: Path,
    ) -> None:
        chosen = spread_over(range(len(table)), SHOWN)
        items = [self._item(table, vocab, row) for row in chosen]
        self._batch: Batch = make_batch(table, visuals, items, vocab.pad)
        self._photos = [_photo(readers, item, photos) for item in items]
        self._out = out

    def __call__(self, model: RisModel, step: int) -> None:
        """Write `step-<n>.png`: prediction as a blue veil, outline of the target in orange."""
        device = next(model.parameters()).device
        logits = model.predict(self._batch.to(device, torch.float32))
        targets = self._batch.targets()
        tiles = [
            _tile(photo, found[0] > 0, target[0] > 0)
            for photo, found, target in zip(self._photos, logits, targets, strict=True)
        ]
        with writing(self._out):
            self._out.mkdir(exist_ok=True)
            Image.fromarray(np.concatenate(tiles, 1)).save(self._out / f"step-{step:08d}.png")

    @staticmethod
    def _item(table: ExpressionTable, vocab: Vocabulary, row: int) -> Item:
        said = table.sentences(row)[:1]
        return Item(
            table.entry(row),
            said,
            build_dialogue(vocab, [fixed_turn(said[0].text, vocab.wording)], limit=ANY),
        )


def _photo(readers: Sequence[RowReader], item: Item, photos: Path | None) -> Pixels:
    entry = item.entry
    if photos is not None:
        try:
            return read_verified(photos, readers[entry.cache].plan.images[entry.row])
        except SvpError:
            pass  # moved or changed since, or not to be had: a picture is no reason to stop a run
    return np.full((entry.height, entry.width, 3), 128, np.uint8)


def _tile(photo: Pixels, found: Tensor, target: Tensor) -> Pixels:
    mask, truth = found.cpu().numpy(), target.cpu().numpy()
    drawn = photo.astype(np.float32)
    drawn[mask] = 0.5 * drawn[mask] + 0.5 * PREDICTED
    edge = truth & ~(_moved(truth, 0, 1) & _moved(truth, 0, -1) & _moved(truth, 1, 1)
                     & _moved(truth, 1, -1))  # fmt: skip
    drawn[edge] = TARGET
    width = max(1, round(photo.shape[1] * HEIGHT / photo.shape[0]))
    picture = Image.fromarray(drawn.astype(np.uint8)).resize((width, HEIGHT))
    return np.asarray(picture)


def _moved(mask: NDArray[np.bool_], axis: int, by: int) -> NDArray[np.bool_]:
    return np.roll(mask, by, axis)
