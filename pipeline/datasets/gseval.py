"""GSEval (GroundingSuite): `GroundingSuite-Eval.jsonl`, one target with its mask per line.

    {"idx", "image_path", "box": [x1, y1, x2, y2], "class_id", "label": str, "segmentation": RLE}

Photographs are COCO unlabeled2017. The box is not read: the mask says more. The four kinds of target
(stuff, part, several, single) are told apart by `class_id`.
"""

from pathlib import Path

from ..display import quote, show
from ..errors import DataError
from ..io.json_files import fingerprint, parse_line, read_data
from ..io.paths import check_name
from ..masks.rle_codec import MAX_SIDE
from .coco import integer
from .image_folder import path_id
from .one_set import one_set
from .options import Options
from .problems import Problems
from .tables import Annotation, Dataset, ImageEntry, Sentence

NAME = "gseval"
FILE = "GroundingSuite-Eval.jsonl"
MAX_FILE = 256 << 20  # bytes


def read_gseval(path: Path, options: Options) -> list[Dataset] | None:
    """The data set in a folder with `GroundingSuite-Eval.jsonl`, split `val`; None for another.

    Up to `max_failures` bad lines are left out (see `Problems.settle`).
    """
    file = path / FILE
    if not file.is_file():
        return None
    problems = Problems(show(str(file), 300))
    images: dict[int, ImageEntry] = {}
    sentences: dict[int, Sentence] = {}
    annotations: dict[int, Annotation] = {}
    lines = read_data(file, MAX_FILE).splitlines()
    for number, line in enumerate(lines, 1):
        try:
            image, row, target = _record(parse_line(line, f"line {number}"), f"line {number}")
            if row.sent_id in sentences:
                raise DataError(f"line {number}: idx {row.sent_id} is given twice")
            if images.setdefault(image.image_id, image) != image:
                raise DataError(f"line {number}: {quote(image.file_name)} has another size before")
        except DataError as error:
            problems.add(error)
            continue
        sentences[row.sent_id], annotations[row.sent_id] = row, target
    files = {FILE: fingerprint(file)}
    faults = problems.settle(len(lines), options.max_failures)
    return one_set(
        NAME, path, images.values(), list(sentences.values()), annotations, files, faults
    )


def _record(value: object, where: str) -> tuple[ImageEntry, Sentence, Annotation]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: not an object")
    number = integer(value.get("idx"), "idx", where)
    name = check_name(value.get("image_path"), where)
    if not isinstance(text := value.get("label"), str):
        raise DataError(f"{where}: label {quote(text)} is not a string")
    segmentation = value.get("segmentation")
    size = segmentation.get("size") if isinstance(segmentation, dict) else None
    if not isinstance(size, list) or len(size) != 2:
        raise DataError(f"{where}: segmentation {quote(segmentation)} is not an RLE with a size")
    height, width = (integer(side, "size", where, low=1, high=MAX_SIDE) for side in size)
    image = ImageEntry(NAME, path_id(name), name, height, width)
    ids = (number, image.image_id, height, width)
    row = Sentence(NAME, "", "val", image.image_id, number, number, number, text)
    return image, row, Annotation(NAME, *ids, segmentation, f"{NAME} {where}")
