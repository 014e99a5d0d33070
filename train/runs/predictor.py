"""`svp.load` and `svp.predict`: a trained model together with its encoders.

A photograph goes the way of the training images: superpixels, patch features and SAM embedding by
the recipe of a cache the model knows, rounded as a cache stores them.
"""

import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ...model.inference.compiled import Passes
from ...model.pretrained.config import CONFIG, is_export
from ...pipeline.cache import create_cache
from ...pipeline.cache.layout import holds_cache
from ...pipeline.cache.plan import Plan, chosen_view
from ...pipeline.datasets.images import Header, image_header, read_image, to_rgb
from ...pipeline.datasets.scenes.generated import is_generated
from ...pipeline.display import show
from ...pipeline.encoders import build_encoder
from ...pipeline.encoders.encoder import Encoder
from ...pipeline.encoders.pair import PairEncoder
from ...pipeline.errors import ConfigError, ImageError, MissingError
from ...pipeline.fetch.catalogue import PREFIX
from ...pipeline.io.paths import expand
from ...pipeline.precompute.options import Flags, resolve
from ...pipeline.precompute.planner import Content, build_plan, sized_plan
from ...pipeline.precompute.toy_guard import require_real_models
from ...pipeline.process import pick_device
from ...pipeline.recipe import Recipe
from ...pipeline.records import ImageRecord, LocalPaths
from ...pipeline.store import Place, as_place
from ...pipeline.superpixels.generator import SuperpixelSource, build_generator
from ..data.collate import CachedVisuals
from ..data.expression_table import Entry
from ..data.live_cache import LiveReader
from ..evaluation.exported import Exported
from ..evaluation.load_trained import Found, data_of_run, find_trained, open_trained, require_fit
from ..evaluation.published_models import Published
from ..evaluation.trained import Trained
from ..evaluation.unseen import Encoders, live_models, live_recipe
from ..options import TrainFlags
from ..trainer.run_data import cache_of_run
from .inputs import CACHE, require_read
from .session import Answers, ImageSession, Prediction, require_expressions

Photo = str | Path | NDArray[np.uint8] | Image.Image
COPY = "photo"  # the photograph's name while it is looked at
REMEMBERED = 4  # photographs of which a predictor keeps what it has seen


class Predictor:
    """A model in evaluation mode and the frozen encoders it sees photographs with, on one device.

    Made by `load`. `digests` says which weights and recipe answer.
    """

    def __init__(
        self,
        trained: Trained,
        plan: Plan,
        where: LocalPaths,
        source: SuperpixelSource,
        encoder: Encoder | PairEncoder,
        *,
        device: str,
        size: str | None = None,
        lm_weights: str | None = None,
        compiled: bool = False,
    ) -> None:
        trained = trained.to_answer(device, lm_weights)
        self._trained, self._plan, self._where = trained, plan, where
        self._source, self._encoder = source, encoder
        self._device, self._size = device, size
        compiled = compiled and torch.device(device).type == "cuda"
        self._passes = Passes(trained.model, "inductor" if compiled else None)
        self._sessions: OrderedDict[str, ImageSession] = OrderedDict()
        self.digests = trained.digests | {"precompute": plan.recipe.digest()}

    def predict(self, image: Photo, expression: str, *, generate: bool = False) -> Prediction:
        """The mask of what `expression` names in `image`; see `ask`."""
        return self.ask(image, (expression,), generate=generate).predictions[0]

    def ask(self, image: Photo, expressions: Sequence[str], *, generate: bool = False) -> Answers:
        """A mask per expression; the photograph is encoded once.

        image     path (trusted: links and any name are read), PIL image, or (H,W,3) uint8 RGB
        generate  let the model answer by itself; it may then give no mask

        Raises MissingError (no such photograph), ImageError (it cannot be used), ConfigError (no
        expression, or toy models on data that is not generated).
        """
        require_expressions(expressions)
        session = self.image(image)
        return Answers(session.tokens, session.ask(expressions, generate=generate))

    def image(self, image: Photo) -> ImageSession:
        """The photograph, encoded and read, to be asked about as often as one likes.

        The last `REMEMBERED` photographs are kept, by their bytes: one that comes again, here, in
        `ask` or in `predict`, is not encoded again. Arguments and errors as those of `ask`.
        """
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            name, generated = _place(image, root / COPY)
            key = xxhash.xxh3_128_hexdigest((root / COPY).read_bytes())
            require_real_models(
                name,
                generated=generated,
                size=self._size,
                precompute=self._plan.recipe,
                language_model=self._trained.recipe.model.init,
                instead="a model trained with `svp train --size small` (or paper) and the recipe "
                "of its cache with --cache",
            )
            if key not in self._sessions:
                self._sessions[key] = self._encoded(root)
                if len(self._sessions) > REMEMBERED:
                    self._sessions.popitem(last=False)
            self._sessions.move_to_end(key)
            return self._sessions[key]

    def _encoded(self, root: Path) -> ImageSession:
        """Of the photograph `COPY` in the folder `root`, in which a plan is put."""
        header = image_header(root / COPY)
        photo = ImageRecord(1, COPY, *header.upright)
        content = Content((photo,), "", {})
        create_cache(root / "plan", build_plan(content, self._plan.recipe, root, known=self._plan))
        where = replace(self._where, images=root)
        reader = LiveReader(root / "plan", where, self._device, self._source, self._encoder)
        visuals = CachedVisuals([reader], self._trained.model.projector.needs)
        entry = Entry("", photo.image_id, 0, 0, photo.height, photo.width)
        visual, sam, sizes = visuals.read([entry], [None])
        return ImageSession(self._trained, self._passes, visual, sam, sizes[0], self._device)


def load(
    model: str | Path,
    *,
    device: str = "auto",
    size: str | None = None,
    cache: str | Path | None = None,
    sam_weights: str | Path | None = None,
    encoder_weights: str | Path | None = None,
    lm_weights: Literal["int8"] | None = None,
    compiled: bool = False,
) -> Predictor:
    """A trained model, ready for photographs.

    model    run or one of its checkpoints, by folder or address, a folder of `svp export`, a published
             GLaMM or LISA folder, or hub:OWNER/NAME of one
    device   auto, cpu, cuda, cuda:N
    size     "tiny" lets the tiny models answer on photographs too; default the variable SVP_SIZE
    cache    whose recipe cuts photographs; default the model's own
    sam_weights, encoder_weights  default: looked for in the usual folders, by their digests
    lm_weights  "int8": those of the language model's layers, half of bfloat16's memory; masks differ a little
    compiled    on CUDA, the language model's passes become graphs: each first one of its shape takes
                about a minute, every other is launched at once

    Raises MissingError (no such model or weights), WeightsError, PlanMismatchError, ConfigError.
    """
    found = _find(model)
    if cache is not None and isinstance(found, Published):
        raise ConfigError("a published model has its own preprocessing: leave out cache")
    return open_predictor(
        found,
        device=device,
        size=size or os.environ.get("SVP_SIZE"),
        cache=expand(cache) if cache is not None else None,
        sam_weights=expand(sam_weights) if sam_weights is not None else None,
        encoder_weights=expand(encoder_weights) if encoder_weights is not None else None,
        lm_weights=lm_weights,
        compiled=compiled,
    )


def predict(
    image: Photo,
    expression: str,
    model: str | Path,
    *,
    device: str = "auto",
    size: str | None = None,
) -> Prediction:
    """The mask of what `expression` names in one photograph; for more than one, `load` once.

    Arguments and errors as those of `load` and `Predictor.ask`.
    """
    return load(model, device=device, size=size).predict(image, expression)


def open_predictor(
    found: Found,
    *,
    device: str = "auto",
    size: str | None = None,
    cache: Place | None = None,
    flags: TrainFlags | None = None,
    sam_weights: Path | None = None,
    encoder_weights: Path | None = None,
    own_sam: bool = False,
    lm_weights: str | None = None,
    compiled: bool = False,
) -> Predictor:
    """`load` for a model that was found; `flags` as `open_trained`, `own_sam` as `Encoders`."""
    device, here = pick_device(device), Path(".")
    source: SuperpixelSource
    encoder: Encoder | PairEncoder
    if isinstance(found, Published):
        encoders = Encoders(
            device=device, own_sam=own_sam, sam=sam_weights, encoder=encoder_weights
        )
        recipe, where = live_recipe(found, encoders, here)
        source, encoder = live_models(found, recipe, where, encoders)
    else:
        recipe, where = _recipe(found, cache, size, LocalPaths(here, sam_weights, encoder_weights))
        source = build_generator(
            recipe.superpixels, where, device, embeddings=recipe.store_sam_embeddings
        )
        encoder = build_encoder(recipe.features, where, device)
    plan = sized_plan(recipe)
    trained = open_trained(found, plan, flags or TrainFlags())
    return Predictor(
        trained, plan, where, source, encoder, device=device, size=size, lm_weights=lm_weights,
        compiled=compiled,
    )  # fmt: skip


def photo_header(path: Path) -> Header:
    """Size and orientation. MissingError for what is not there, ImageError as `image_header`."""
    try:
        return image_header(path)
    except ImageError as error:
        if error.reason == "missing":
            raise MissingError(f"{show(str(path), 300)}: no such photograph") from None
        raise


def _find(model: str | Path) -> Found:
    """Raises MissingError, WeightsError."""
    if isinstance(model, str) and model.startswith(PREFIX):
        return find_trained(None, Path(), model)
    folder = as_place(model)
    if not isinstance(folder, Path):
        return find_trained(folder, Path())
    if (folder / CONFIG).is_file() and not is_export(folder):
        return find_trained(None, Path(), str(folder))
    return find_trained(folder, Path())


def _recipe(
    found: Found, cache: Place | None, size: str | None, where: LocalPaths
) -> tuple[Recipe, LocalPaths]:
    """Preprocessing recipe of the predictor, and the paths of its weights."""
    if isinstance(found, Exported) and cache is None:
        require_read(found.recipe, where)
        return found.recipe, where
    cache = cache or cache_of_run(data_of_run(found))
    cache = cache or (CACHE if holds_cache(CACHE) else None)
    if cache is not None:
        recipe = Plan.load(cache, chosen_view(cache, partial(require_fit, found))).recipe
        require_read(recipe, where)
        return recipe, where
    given = {"sam_weights": where.sam, "encoder_weights": where.encoder}
    paths = {name: str(path) if path else None for name, path in given.items()}
    flags = Flags(**paths, store_sam_embeddings=True)  # type: ignore[arg-type]
    return resolve(size, None, flags, (), where.images)


def _place(image: Photo, copy: Path) -> tuple[str, bool]:
    """Put the photograph at `copy`, a name that no rule refuses.

    Returns what messages call it, and whether it is a generated scene.
    """
    if isinstance(image, str | Path):
        path = Path(image)
        photo_header(path)
        read_image(path)  # damage is told with the path that the user gave
        shutil.copyfile(path, copy)
        return show(path.name), is_generated([path])
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ConfigError(f"image: {image.dtype} {image.shape}, want uint8 RGB (H,W,3)")
        image = Image.fromarray(image)
    upright = to_rgb(ImageOps.exif_transpose(image), Path("the image"))
    Image.fromarray(upright).save(copy, "PNG", compress_level=1)
    return "the image", False
