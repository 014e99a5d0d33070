"""`svp predict`: segment what expressions name in photographs; masks, overlays and JSON out."""

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

from ...pipeline.datasets.images import read_image
from ...pipeline.display import Report, counted, show
from ...pipeline.errors import DataError, ImageError, MissingError
from ...pipeline.io.atomic import check_writable, make_folders, write_file
from ...pipeline.superpixels.budget.selector import AUTO, parse_budget
from ..evaluation.trained import require_forced
from .answer import Answer
from .asked_model import ModelRequest
from .photo import photo_header
from .questions import Question, questions
from .segmenter import Segmenter

log = logging.getLogger(__name__)

LINES = "predictions.jsonl"
SAID_EVERY_S = 10.0


@dataclass(frozen=True, kw_only=True)
class PredictRequest(ModelRequest):
    """Options of `svp predict`.

    images    photograph, folder of photographs, or JSONL file, see `questions`
    generate  let the model answer by itself; it may then give no mask
    out       folder of the files, made if needed
    """

    images: Path
    expressions: tuple[str, ...]
    generate: bool = False
    out: Path = Path("predictions")

    def __post_init__(self) -> None:
        super().__post_init__()
        budget = AUTO if self.budget is None else parse_budget(self.budget)
        require_forced(self.generate, self.reject_above, self.decoder, budget)


@dataclass(frozen=True)
class PhotoReport(Report):
    """Answers about one photograph.

    record  of its JSON file: image, size (H,W) and orientation (EXIF, 1..8, applied to all that is
            written), tokens, predictions (masks as COCO RLE), files, digests
    """

    record: dict[str, Any]
    files: list[Path]

    def lines(self) -> list[str]:
        size, turn = self.record["size"], self.record["orientation"]
        found = [
            f"{p['expression']!r}: {p['area']:,} pixels ({p['area'] / (size[0] * size[1]):.1%})"
            + _why_empty(p)
            for p in self.record["predictions"]
        ]
        said = f"EXIF orientation {turn} applied: all is upright, as viewers show it"
        tokens = counted(self.record["tokens"], "visual token")
        return [*([said] if turn > 1 else []), tokens, *found]


@dataclass(frozen=True)
class PredictReport(Report):
    """Report of `svp predict`.

    left_out  photographs that cannot be used, and why
    files     all that was written; the last one holds all answers
    """

    photos: list[PhotoReport]
    left_out: dict[str, str]
    files: list[Path]

    @property
    def exit_code(self) -> int:
        """1 if a photograph was left out."""
        return int(bool(self.left_out))

    def lines(self) -> list[str]:
        if len(self.photos) == 1 and not self.left_out:
            (only,) = self.photos
            return [*only.lines(), *(show(str(path), 400) for path in self.files)]
        rows = [
            f"{show(photo.record['image'], 300)}: {'; '.join(photo.lines())}"
            for photo in self.photos
        ]
        bad = [f"left out: {why}" for why in self.left_out.values()]
        total = f"{counted(len(self.photos), 'photograph')} answered"
        if bad:
            total += f", {len(bad)} left out"
        return [*rows, *bad, total, show(str(self.files[-1]), 400)]

    def to_json(self) -> dict[str, object]:
        if len(self.photos) == 1 and not self.left_out:
            return self.photos[0].record
        return {"photographs": [p.record for p in self.photos], "left_out": self.left_out}


def _why_empty(found: dict[str, Any]) -> str:
    if found["rejected"]:
        chance = found["rejection"]
        return ", no such object" + ("" if chance is None else f" (chance {chance:.2f})")
    return "" if found["has_seg"] else ", no [SEG] in the answer"


def predict_command(request: PredictRequest) -> PredictReport:
    """Predict and write `<name>-<n>-mask.png`, `<name>-<n>-overlay.png` and `<name>.json` per
    photograph; of a folder or a JSONL file also `predictions.jsonl`, a record per line.

    Where the record in `out` is of another photograph of that name, `<name>~2` and so on.

    The path is the user's own and trusted: links and any name the system allows are read. One
    photograph that cannot be used is an error; of several it is left out, named and counted.

    Raises MissingError (no such photograph, run, weights), ImageError, DataError (a line of the
    file, no usable photograph), WeightsError, PlanMismatchError, ConfigError, CacheError (`out` cannot be written).
    """
    asked, notices = questions(request.images, request.expressions)
    several = request.images.is_dir() or len(asked) > 1
    for line in notices:
        log.info(line)
    first = asked[0]
    if not several and isinstance(first.photo, Path):
        read_image(first.photo)  # damage is told before any weights are read
    _require_places(request.out, first, several)
    model = request.open()
    make_folders(request.out)
    photos, left_out = [], {}
    for one in _told(asked) if several else asked:
        try:
            photos.append(_answered(model, one, request))
        except (ImageError, MissingError) as error:
            if not several:
                raise
            left_out[one.name] = str(error)
    if not photos:
        raise DataError(f"no photograph could be used: {next(iter(left_out.values()))}")
    files = [path for photo in photos for path in photo.files]
    if several:
        lines = "".join(json.dumps(photo.record, sort_keys=True) + "\n" for photo in photos)
        files.append(request.out / LINES)
        write_file(files[-1], lines.encode(), label="prediction")
    return PredictReport(photos, left_out, files)


def _told(asked: list[Question]) -> Iterator[Question]:
    """The questions, with a line of progress every few seconds."""
    began = said = time.monotonic()
    for done, one in enumerate(asked):
        if done and time.monotonic() - said > SAID_EVERY_S:
            said = time.monotonic()
            left = (said - began) / done * (len(asked) - done)
            log.info(f"{done:,}/{counted(len(asked), 'photograph')}  {left / 60:.1f} min left")
        yield one


def _answered(model: Segmenter, one: Question, request: PredictRequest) -> PhotoReport:
    """Ask about one photograph and write the files."""
    turn = photo_header(one.photo).orientation if isinstance(one.photo, Path) else 1
    answers: list[Answer] = model(one.photo, one.expressions, generate=request.generate)
    record = _record(request.out, one)
    files = []
    for number, answer in enumerate(answers, 1):
        for path in _pictures(record, number):
            answer.save(path)
            files.append(path)
    files.append(record)
    written = {
        "image": one.name,
        "size": list(answers[0].mask.shape),
        "orientation": turn,
        "frame": "upright",
        "tokens": answers[0].tokens,
        "predictions": [answer.record() for answer in answers],
        "files": [show(str(path), 4096) for path in files],
        "digests": model.digests,
    }
    text = json.dumps(written, indent=1, sort_keys=True) + "\n"
    write_file(record, text.encode(), label="prediction")
    return PhotoReport(written, files)


def _pictures(record: Path, number: int) -> list[Path]:
    """The pictures of expression `number`, counted from 1."""
    return [record.with_name(f"{record.stem}-{number}-{kind}.png") for kind in ("mask", "overlay")]


def _record(out: Path, one: Question) -> Path:
    """The record of this photograph; one of its name from another folder keeps its own files."""
    stem = one.photo.stem if isinstance(one.photo, Path) else Path(one.name.partition("#")[0]).stem
    names = chain([stem], (f"{stem}~{n}" for n in count(2)))
    paths = (out / f"{name}.json" for name in names)
    return next(path for path in paths if _image_of(path) in (None, one.name))


def _image_of(record: Path) -> str | None:
    """The photograph that the answers in `record` are about; None: no such record."""
    try:
        image = json.loads(record.read_bytes())["image"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None
    return image if isinstance(image, str) else None


def _require_places(out: Path, first: Question, several: bool) -> None:
    """Raise CacheError if an output cannot be written, before the model runs."""
    record = _record(out, first)
    pictures = (p for n in range(1, len(first.expressions) + 1) for p in _pictures(record, n))
    for path in (record, *pictures, *([out / LINES] if several else [])):
        check_writable(path, file=True)
