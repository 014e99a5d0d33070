"""`svp predict`: segment the object that an expression names; mask, overlay and JSON out."""

import io
import json
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...pipeline.datasets.images import Header, read_image
from ...pipeline.display import Report, counted, show
from ...pipeline.errors import ConfigError
from ...pipeline.io.atomic import check_writable, make_folders, write_file
from ...pipeline.store import Place
from ..evaluation.load_trained import find_trained
from ..options import TrainFlags
from ..trainer.previews import PREDICTED
from .predictor import open_predictor, photo_header
from .session import Answers, Prediction

Mask = NDArray[np.bool_]
EDGE = np.array([255, 255, 255], np.uint8)


@dataclass(frozen=True, kw_only=True)
class PredictRequest:
    """Options of `svp predict`.

    cache       whose recipe cuts the photograph; None: the run's own, or `size`'s
    checkpoint  run or one of its checkpoints, by folder or address; None: the newest run in `runs`
    published   a GLaMM or LISA folder, or hub:OWNER/NAME, asked as it is, `own_sam` with its own
                SAM instead of the one of `sam_weights`
    generate    let the model answer by itself; it may then give no mask
    lm_weights  "int8" for those of the language model's layers; None: as they are
    out         folder of the files, made if needed
    """

    image: Path
    expressions: tuple[str, ...]
    cache: Path | None = None
    size: str | None = None
    checkpoint: Place | None = None
    published: str | None = None
    own_sam: bool = False
    runs: Place = Path("runs")
    flags: TrainFlags = field(default_factory=TrainFlags)
    sam_weights: Path | None = None
    encoder_weights: Path | None = None
    generate: bool = False
    lm_weights: str | None = None
    device: str = "auto"
    out: Path = Path("predictions")

    def __post_init__(self) -> None:
        if not self.expressions:
            raise ConfigError("give at least one expression")
        if self.published is not None and self.cache is not None:
            raise ConfigError("--published has its own preprocessing: leave out --cache")
        if self.own_sam and self.published is None:
            raise ConfigError("--own-sam is for --published")
        if self.own_sam and self.sam_weights is not None:
            raise ConfigError("--own-sam replaces --sam-weights: leave one of them out")


@dataclass(frozen=True)
class PredictReport(Report):
    """Report of `svp predict`.

    size, orientation  (H,W) of masks and overlays: the photograph as viewers show it, its EXIF
                       orientation (1..8) applied
    """

    image: Path
    size: tuple[int, int]
    orientation: int
    tokens: int
    predictions: list[Prediction]
    files: list[Path]
    digests: dict[str, str]

    def lines(self) -> list[str]:
        pixels = self.size[0] * self.size[1]
        found = [
            f"{p.expression!r}: {p.area:,} pixels ({p.area / pixels:.1%})" + _why_empty(p)
            for p in self.predictions
        ]
        turned = (
            [f"EXIF orientation {self.orientation} applied: all is upright, as viewers show it"]
            if self.orientation > 1
            else []
        )
        files = [show(str(path), 400) for path in self.files]
        return [*turned, counted(self.tokens, "visual token"), *found, *files]

    def to_json(self) -> dict[str, object]:
        return {
            "image": show(str(self.image), 4096),
            "size": list(self.size),
            "orientation": self.orientation,
            "frame": "upright",
            "tokens": self.tokens,
            "predictions": [p.record() for p in self.predictions],
            "files": [show(str(path), 4096) for path in self.files],
            "digests": self.digests,
        }


def _why_empty(found: Prediction) -> str:
    if found.rejected:
        chance = "" if found.rejection is None else f" (chance {found.rejection:.2f})"
        return f", no such object{chance}"
    return "" if found.has_seg else ", no [SEG] in the answer"


def predict_command(request: PredictRequest) -> PredictReport:
    """Predict and write `<name>-<n>-mask.png`, `<name>-<n>-overlay.png` and `<name>.json`.

    Where the record in `out` is of another photograph of that name, `<name>~2` and so on.

    The path is the user's own and trusted: links and any name the system allows are read.

    Raises MissingError (no such photograph, run, weights), ImageError, WeightsError,
    PlanMismatchError, ConfigError, DataError, CacheError (`out` cannot be written).
    """
    header = photo_header(request.image)
    _require_places(request)
    read_image(request.image)  # damage is told with the path that the user gave, before any weights
    model = open_predictor(
        find_trained(request.checkpoint, request.runs, request.published),
        device=request.device,
        size=request.size,
        cache=request.cache,
        flags=request.flags,
        sam_weights=request.sam_weights,
        encoder_weights=request.encoder_weights,
        own_sam=request.own_sam,
        lm_weights=request.lm_weights,
    )
    answers = model.ask(request.image, request.expressions, generate=request.generate)
    return _write(request, header, answers, model.digests)


def overlay(photo: NDArray[np.uint8], mask: Mask) -> NDArray[np.uint8]:
    """The photograph (H,W,3) with the mask as a blue veil with a white edge."""
    drawn = photo.astype(np.float32)
    drawn[mask] = 0.5 * drawn[mask] + 0.5 * PREDICTED
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    drawn[mask & ~inner] = EDGE
    return drawn.astype(np.uint8)


def _places(request: PredictRequest, number: int) -> dict[str, Path]:
    """The pictures of expression `number`, counted from 1."""
    stem = _record(request).stem
    return {kind: request.out / f"{stem}-{number}-{kind}.png" for kind in ("mask", "overlay")}


def _record(request: PredictRequest) -> Path:
    """The record of this photograph; one of its name from another folder keeps its own files."""
    stem, image = request.image.stem, show(str(request.image), 4096)
    names = chain([stem], (f"{stem}~{n}" for n in count(2)))
    paths = (request.out / f"{name}.json" for name in names)
    return next(path for path in paths if _image_of(path) in (None, image))


def _image_of(record: Path) -> str | None:
    """The photograph that the answers in `record` are about; None: no such record."""
    try:
        image = json.loads(record.read_bytes())["image"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None
    return image if isinstance(image, str) else None


def _require_places(request: PredictRequest) -> None:
    """Raise CacheError if an output cannot be written, before the model runs."""
    numbers = range(1, len(request.expressions) + 1)
    for path in (_record(request), *(p for n in numbers for p in _places(request, n).values())):
        check_writable(path, file=True)


def _write(
    request: PredictRequest,
    header: Header,
    answers: Answers,
    digests: dict[str, str],
) -> PredictReport:
    make_folders(request.out)
    photo, files = read_image(request.image), []
    for number, prediction in enumerate(answers.predictions, 1):
        mask = prediction.mask
        pictures = {"mask": mask.astype(np.uint8) * 255, "overlay": overlay(photo, mask)}
        for kind, path in _places(request, number).items():
            files.append(path)
            png = io.BytesIO()
            Image.fromarray(pictures[kind]).save(png, "PNG")
            write_file(path, png.getvalue(), label="prediction")
    files.append(_record(request))
    report = PredictReport(
        request.image,
        header.upright,
        header.orientation,
        answers.tokens,
        answers.predictions,
        files,
        digests,
    )
    text = json.dumps(report.to_json(), indent=1, sort_keys=True) + "\n"
    write_file(files[-1], text.encode(), label="prediction")
    return report
