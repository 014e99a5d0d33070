"""RefCOCOm (MRES): parts and objects, masks as PNG files.

`annotations/<split>.json` is a list of `{"img_name", "segment_id", "sentences": [{"sent"}, ...]}`, the mask
is `masks/<segment_id>.png`, 0 or 255 (jdg900/MMR utils/dataset.py). Photographs are COCO train2014.
"""

import hashlib
from pathlib import Path

from ..display import quote, show
from ..errors import DataError, ImageError
from ..io.json_files import Fingerprint, fingerprint, read_list
from ..io.paths import check_name, safe_join
from ..masks.rle import encode
from ..records import Rle
from .image_folder import path_id
from .images import read_mask
from .one_set import one_set
from .options import Options
from .problems import Faults, Problems, merged
from .tables import Annotation, Dataset, ImageEntry, Sentence

NAME = "refcocom"
SPLITS = ("train", "val", "testA", "testB", "test")
_IDS, _TEXTS = 1_000_000, 1000  # ids: split times the one plus the record; that times the other


def read_refcocom(path: Path, options: Options) -> list[Dataset] | None:
    """The data set in a folder of `annotations` and `masks`; None for another folder.

    All masks are read. Up to `max_failures` bad records of each file are left out (see
    `Problems.settle`).
    """
    files = {split: path / "annotations" / f"{split}.json" for split in SPLITS}
    here = {split: file for split, file in files.items() if file.is_file()}
    if not here or not (path / "masks").is_dir():
        return None
    made = _Tables(path / "masks")
    faults: list[Faults] = []
    for split, file in here.items():
        problems = Problems(show(str(file), 300))
        records = read_list(file)
        for index, record in enumerate(records):
            try:
                made.add(record, f"record {index}", split, index)
            except DataError as error:
                problems.add(error)
        faults.append(problems.settle(len(records), options.max_failures))
    read = {f"{NAME}/{file.name}": fingerprint(file) for file in here.values()}
    read["masks"] = made.fingerprint()
    images, whole = made.images.values(), merged(faults)
    return one_set(NAME, path, images, made.sentences, made.annotations, read, whole)


class _Tables:
    """The rows under construction. A record's id is its place in the files that were read."""

    def __init__(self, masks: Path) -> None:
        self.masks = masks
        self.images: dict[int, ImageEntry] = {}
        self.sentences: list[Sentence] = []
        self.annotations: dict[int, Annotation] = {}
        self._digest, self._bytes = hashlib.sha256(), 0

    def add(self, record: object, where: str, split: str, index: int) -> None:
        """One mask and its sentences. DataError names the record, and the mask if that is bad."""
        if not isinstance(record, dict):
            raise DataError(f"{where}: {quote(record)} is not an object")
        name = check_name(record.get("img_name"), where)
        segment, texts = record.get("segment_id"), record.get("sentences")
        if type(segment) not in (int, str):
            raise DataError(f"{where}: segment_id {quote(segment)} is neither number nor string")
        if not isinstance(texts, list) or not texts:
            raise DataError(f"{where}: sentences {quote(texts)} is not a list of some")
        said = [_sentence(one, where) for one in texts]
        mask = self._mask(f"{segment}.png", where)

        image = ImageEntry(NAME, path_id(name), name, mask.height, mask.width)
        if (other := self.images.setdefault(image.image_id, image)) != image:
            raise DataError(
                f"{where}: masks/{segment}.png is {mask.height}x{mask.width}, another of {quote(name)} "
                f"{other.height}x{other.width}"
            )
        number = SPLITS.index(split) * _IDS + index
        ids = (number, image.image_id, mask.height, mask.width)
        self.annotations[number] = Annotation(NAME, *ids, mask.coco(), f"{NAME} {split} {where}")
        for place, text in enumerate(said):
            sent_id = number * _TEXTS + place
            self.sentences.append(
                Sentence(NAME, "", split, image.image_id, number, number, sent_id, text)
            )

    def fingerprint(self) -> Fingerprint:
        """Of all masks in the order of the records."""
        return Fingerprint(self._digest.hexdigest(), self._bytes)

    def _mask(self, name: str, where: str) -> Rle:
        try:
            mask = encode(read_mask(safe_join(self.masks, name, where)))
        except ImageError as error:
            raise DataError(f"{where}: masks/{show(name)}: {error}") from None
        self._digest.update(f"{name}\0{mask.height}\0{mask.width}\0".encode() + mask.counts + b"\n")
        self._bytes += len(mask.counts)
        return mask


def _sentence(value: object, where: str) -> str:
    text = value.get("sent") if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise DataError(f"{where}: sentence {quote(value)} has no text `sent`")
    return text.strip().lower()
