"""`svp predict`: a photograph and an expression in; mask, overlay and a JSON record out.

The photograph goes the way of the training images: superpixels, patch features and SAM embedding by
the recipe of a cache the model knows, rounded as a cache stores them.
"""

import io
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ...model.generate import generate
from ...pipeline.cache import create_cache
from ...pipeline.cache.layout import PLAN
from ...pipeline.cache.plan import Plan
from ...pipeline.datasets.images import Header, image_header, read_image
from ...pipeline.datasets.scenes.generated import is_generated
from ...pipeline.display import show
from ...pipeline.errors import ConfigError, ImageError, MissingError
from ...pipeline.io.atomic import check_writable, make_folders, write_file
from ...pipeline.masks import rle
from ...pipeline.precompute.options import Flags, resolve
from ...pipeline.precompute.planner import Content, build_plan
from ...pipeline.precompute.toy_guard import require_real_models
from ...pipeline.process import pick_device
from ...pipeline.recipe import Recipe
from ...pipeline.records import Expression, ImageRecord, Rle, Where
from ..data.collate import CachedVisuals
from ..data.expression_table import Entry
from ..data.live_cache import LiveReader
from ..evaluation.evaluate import precision, to_batch
from ..evaluation.exported import Exported
from ..evaluation.load_trained import Found, data_of_run, find_trained, open_trained
from ..evaluation.protocols import Example, plan
from ..evaluation.published import Published
from ..evaluation.trained import Trained
from ..evaluation.unseen import Encoders, live_readers
from ..options import TrainFlags
from ..trainer.previews import PREDICTED
from ..trainer.run_data import cache_of_run
from .inputs import CACHE

Mask = NDArray[np.bool_]
COPY = "photo"  # the photograph's name while it is looked at
EDGE = np.array([255, 255, 255], np.uint8)


@dataclass(frozen=True, kw_only=True)
class PredictRequest:
    """What the user asked for.

    cache       whose recipe cuts the photograph; None: the run's own, or `size`'s
    checkpoint  run folder or one of its checkpoints; None: the newest run in `runs`
    published   a GLaMM or LISA folder, or hub:OWNER/NAME, asked as it is, `own_sam` with its own
                SAM instead of the one of `sam_weights`
    generate    let the model answer by itself; it may then give no mask
    out         folder of the files, made if needed
    """

    image: Path
    expressions: tuple[str, ...]
    cache: Path | None = None
    size: str | None = None
    checkpoint: Path | None = None
    published: str | None = None
    own_sam: bool = False
    runs: Path = Path("runs")
    flags: TrainFlags = field(default_factory=TrainFlags)
    sam_weights: Path | None = None
    encoder_weights: Path | None = None
    generate: bool = False
    device: str = "auto"
    out: Path = Path("predictions")

    def __post_init__(self) -> None:
        if not self.expressions:
            raise ConfigError("give at least one expression")
        if self.published is not None and self.cache is not None:
            raise ConfigError("--published says itself how a photograph is seen: leave out --cache")
        if self.own_sam and self.published is None:
            raise ConfigError("--own-sam is for --published")


@dataclass(frozen=True)
class Prediction:
    """One answer. `answer` is the generated text, None with teacher forcing; `box` is x1 y1 x2 y2
    with inclusive maxima, None for an empty mask.
    """

    expression: str
    answer: str | None
    has_seg: bool
    area: int
    box: tuple[int, int, int, int] | None
    mask: Rle

    def pixels(self) -> Mask:
        """The mask (H,W) bool."""
        return rle.decode(self.mask).astype(np.bool_)

    def record(self) -> dict[str, object]:
        """As JSON, the mask as COCO RLE."""
        size = [self.mask.height, self.mask.width]
        return asdict(self) | {"mask": {"size": size, "counts": self.mask.counts.decode("ascii")}}


@dataclass(frozen=True)
class PredictReport:
    """What `svp predict` prints.

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

    exit_code = 0

    def lines(self) -> list[str]:
        """For people."""
        pixels = self.size[0] * self.size[1]
        found = [
            f"{p.expression!r}: {p.area:,} pixels ({p.area / pixels:.1%})"
            + ("" if p.has_seg else ", no [SEG] in the answer")
            for p in self.predictions
        ]
        turned = (
            [f"EXIF orientation {self.orientation} applied: all is upright, as viewers show it"]
            if self.orientation > 1
            else []
        )
        files = [show(str(path), 400) for path in self.files]
        return [*turned, f"{self.tokens} visual tokens", *found, *files]

    def to_json(self) -> dict[str, object]:
        """For programs."""
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


def predict_command(request: PredictRequest) -> PredictReport:
    """Predict and write `<name>-<n>-mask.png`, `<name>-<n>-overlay.png` and `<name>.json`.

    The path is the user's own and trusted: links and any name the system allows are read.

    Raises MissingError (no such photograph, run, weights), ImageError, WeightsError,
    PlanMismatchError, ConfigError, DataError, CacheError (`out` cannot be written).
    """
    header = _header(request.image)
    _require_places(request)
    read_image(request.image)  # damage is told with the path that the user gave, before any weights
    device = pick_device(request.device)
    found = find_trained(request.checkpoint, request.runs, request.published)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        photo = ImageRecord(1, COPY, *header.upright)
        shutil.copyfile(request.image, root / COPY)  # under a name that no rule refuses
        reader = _reader(request, found, Content((photo,), "", {}), root, device)
        trained = open_trained(found, reader.plan, request.flags)
        require_real_models(
            show(request.image.name),
            generated=is_generated([request.image]),
            size=request.size,
            precompute=reader.plan.recipe,
            language_model=trained.recipe.model.init,
            instead="a model trained with `svp train --size small` (or paper) and the recipe of "
            "its cache with --cache",
        )
        trained.model.to(device)
        visuals = CachedVisuals([reader], trained.model.projector.needs)
        tokens, answers = _ask(trained, visuals, photo, request, device)
    digests = trained.digests | {"precompute": reader.plan.recipe.digest()}
    return _write(request, header, tokens, answers, digests)


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
    stem = request.image.stem
    return {kind: request.out / f"{stem}-{number}-{kind}.png" for kind in ("mask", "overlay")}


def _record(request: PredictRequest) -> Path:
    return request.out / f"{request.image.stem}.json"


def _require_places(request: PredictRequest) -> None:
    """CacheError if one of the files to come cannot be written, before the model is asked."""
    numbers = range(1, len(request.expressions) + 1)
    for path in (_record(request), *(p for n in numbers for p in _places(request, n).values())):
        check_writable(path, file=True)


def _header(path: Path) -> Header:
    """Size and orientation. MissingError for what is not there, ImageError as `image_header`."""
    try:
        return image_header(path)
    except ImageError as error:
        if error.reason == "missing":
            raise MissingError(f"{show(str(path), 300)}: no such photograph") from None
        raise


def _reader(
    request: PredictRequest, found: Found, content: Content, root: Path, device: str
) -> LiveReader:
    """The photograph in `root`, seen the way the model's training images were."""
    if isinstance(found, Published):
        encoders = Encoders(
            device=device,
            own_sam=request.own_sam,
            sam=request.sam_weights,
            encoder=request.encoder_weights,
        )
        return live_readers(found, {"": (content, root)}, root / "plan", encoders)[""]
    recipe, where = _recipe(request, found, root)
    create_cache(root / "plan", build_plan(content, recipe, root))
    return LiveReader(root / "plan", where, device)


def _recipe(request: PredictRequest, found: Found, root: Path) -> tuple[Recipe, Where]:
    """How the photograph is cut, and where it and the weights lie."""
    if isinstance(found, Exported) and request.cache is None:
        return found.recipe, Where(root, request.sam_weights, request.encoder_weights)
    cache = request.cache or cache_of_run(data_of_run(found))
    cache = cache or (CACHE if (CACHE / PLAN).is_file() else None)
    if cache is not None:
        where = Where(root, request.sam_weights, request.encoder_weights)
        return Plan.load(cache / PLAN).recipe, where
    given = {"sam_weights": request.sam_weights, "encoder_weights": request.encoder_weights}
    paths = {name: str(path) if path else None for name, path in given.items()}
    flags = Flags(**paths, store_sam_embeddings=True)  # type: ignore[arg-type]
    return resolve(request.size, None, flags, (), root)


def _ask(
    trained: Trained,
    visuals: CachedVisuals,
    record: ImageRecord,
    request: PredictRequest,
    device: str,
) -> tuple[int, list[Prediction]]:
    """Visual tokens of the photograph, and an answer per expression."""
    nothing = rle.encode(np.zeros((record.height, record.width), np.bool_))
    said = tuple(
        Expression(n, n, n, record.image_id, text, nothing)
        for n, text in enumerate(request.expressions)
    )
    item = Example(Entry("", record.image_id, 0, 0, record.height, record.width), record.path, said)
    wording = trained.vocab.wording
    units = plan([item], "full", generate=request.generate, wording=wording)
    batch = to_batch(units, trained.vocab, visuals).to(device, torch.float32)
    model, vocab = trained.model, trained.vocab
    with torch.inference_mode(), precision(model, device):
        tokens = int(model.tokens(batch)[1][0].sum())
        if not request.generate:
            masks = [(logits[0] > 0).cpu().numpy() for logits in model.predict(batch)]
            return tokens, [_prediction(e.text, m, None) for e, m in zip(said, masks, strict=True)]
        answers = generate(model, batch, seg=vocab.seg, eos=vocab.eos)
    texts = [vocab.decode(ids) for ids in answers.ids]
    masks = [(m[0] > 0).cpu().numpy() if len(m) else rle.decode(nothing) > 0 for m in answers.masks]
    return tokens, [
        _prediction(e.text, mask, text, has_seg)
        for e, mask, text, has_seg in zip(said, masks, texts, answers.seg.tolist(), strict=True)
    ]


def _prediction(text: str, mask: Mask, answer: str | None, has_seg: bool = True) -> Prediction:
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (int(xs[0]), int(ys[0]), int(xs[-1]), int(ys[-1])) if len(xs) else None
    return Prediction(text, answer, has_seg, int(mask.sum()), box, rle.encode(mask))


def _write(
    request: PredictRequest,
    header: Header,
    tokens: int,
    found: Sequence[Prediction],
    digests: dict[str, str],
) -> PredictReport:
    make_folders(request.out)
    photo, files = read_image(request.image), []
    for number, prediction in enumerate(found, 1):
        mask = prediction.pixels()
        pictures = {"mask": mask.astype(np.uint8) * 255, "overlay": overlay(photo, mask)}
        for kind, path in _places(request, number).items():
            files.append(path)
            write_file(path, _png(pictures[kind]), label="prediction")
    files.append(_record(request))
    report = PredictReport(
        request.image, header.upright, header.orientation, tokens, list(found), files, digests
    )
    text = json.dumps(report.to_json(), indent=1, sort_keys=True) + "\n"
    write_file(files[-1], text.encode(), label="prediction")
    return report


def _png(pixels: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
