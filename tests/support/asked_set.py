"""A JSONL data set of two photographs, one of them turned by EXIF, and answers to its expressions."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from svp.pipeline.datasets import Source, open_dataset
from svp.pipeline.masks.rle import decode, encode
from svp.pipeline.records import Rle
from svp.train.evaluation.results import Header, Row, SplitSize, collect, write_results

SIZE = (12, 16)  # height, width of both, upright
SQUARES = {"the left square": (1, 2, 6, 8), "the right square": (8, 3, 15, 10), "": (0, 0, 0, 0)}


def write_set(folder: Path) -> Path:
    """`val.jsonl` with five expressions, one of nothing."""
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / "plain.png")
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(pixels)))  # orientation 6 turns it back
    turned.save(folder / "turned.jpg", exif=_exif(6), quality=95)
    lines = [
        {"image": image, "expression": text, "mask": _polygon(*SQUARES[text])}
        for image in ("plain.png", "turned.jpg")
        for text in ("the left square", "the right square")
    ]
    lines.append({"image": "plain.png", "expression": "the cup", "mask": []})
    (folder / "val.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "val.jsonl"


def read_set(path: Path) -> Source:
    """It, opened."""
    return open_dataset(path, split="val", masks=True, allow_empty=True)


def write_answers(source: Source, out: Path) -> None:
    """A result file: every target without its lowest row, and nothing for the empty one."""
    rows = []
    names = {record.image_id: record.path for record in source.images}
    for sentence in source.sentences:
        target = source.good_masks[sentence.dataset, sentence.ann_id]
        found = answered(target)
        wanted, said = decode(target).astype(bool), decode(found).astype(bool)
        rows.append(
            Row(
                repeat=0, dataset=sentence.dataset, image_id=sentence.image_id,
                ref_id=sentence.ref_id, sent_id=sentence.sent_id, text=sentence.sent,
                path=names[sentence.image_id], height=target.height, width=target.width,
                intersection=int((wanted & said).sum()), union=int((wanted | said).sum()),
                target=int(wanted.sum()), tokens=9, has_seg=True,
                counts=found.counts.decode(), classes=[],
            )
        )  # fmt: skip
    size = SplitSize(
        dataset=source.name, split_by="", split="val", images=len(names), sentences=len(rows)
    )
    header = Header(
        svp="0.1.0", commit="abc", protocol="full", generate=False, seed=0, repeats=1, order="area",
        splits=[size], digests={}, libraries={},
    )  # fmt: skip
    write_results(out, collect(header, rows))


def answered(target: Rle) -> Rle:
    """The mask without its lowest row."""
    mask = decode(target).astype(bool)
    if mask.any():
        mask[np.flatnonzero(mask.any(1))[-1]] = False
    return encode(mask)


def _polygon(x0: int, y0: int, x1: int, y1: int) -> list[list[int]]:
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif
