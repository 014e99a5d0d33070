"""`svp.load`: a trained model together with its encoders, asked about photographs.

A photograph goes the way of the training images: superpixels, patch features and SAM embedding by
the recipe of a cache the model knows, rounded as a cache stores them.
"""

import os
import tempfile
import time
from collections import OrderedDict
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, Self, overload

import torch
import xxhash

from ...model.inference.compiled import Passes
from ...model.pretrained.config import is_export
from ...pipeline.cache import create_cache
from ...pipeline.cache.layout import holds_cache
from ...pipeline.cache.plan import Plan, chosen_view
from ...pipeline.datasets.images import image_header, read_image
from ...pipeline.encoders import build_encoder
from ...pipeline.encoders.encoder import Encoder
from ...pipeline.encoders.pair import PairEncoder
from ...pipeline.errors import ConfigError
from ...pipeline.fetch.catalogue import PREFIX
from ...pipeline.io.paths import expand
from ...pipeline.precompute.options import Flags, resolve
from ...pipeline.precompute.planner import Content, build_plan, sized_plan
from ...pipeline.precompute.toy_guard import require_real_models
from ...pipeline.process import pick_device
from ...pipeline.recipe import Recipe
from ...pipeline.records import ImageRecord, LocalPaths
from ...pipeline.store import Place, as_place
from ...pipeline.superpixels.budget.selector import Budget
from ...pipeline.superpixels.generator import SuperpixelSource, build_generator
from ..cli_defaults import shipped_model
from ..data.collate import CachedVisuals
from ..data.expression_table import Entry
from ..data.live_cache import LiveReader
from ..evaluation.exported import Exported
from ..evaluation.load_trained import (
    Found,
    budget_of,
    data_of_run,
    find_trained,
    open_trained,
    require_budget_of,
    require_fit,
    require_token_answers,
)
from ..evaluation.published_models import Published
from ..evaluation.trained import Trained
from ..evaluation.unseen import Encoders, live_models, live_recipe
from ..options import TrainFlags
from ..trainer.run_data import cache_of_run
from .answer import Answer
from .inputs import CACHE, require_read
from .newest_cache import chosen_size
from .photo import Photo, place_photo
from .session import Encoded, Expressions, ImageSession, require_expressions

COPY = "photo"  # the photograph's name while it is looked at
REMEMBERED = 4  # photographs of which a segmenter keeps what it has seen


class Segmenter:
    """A trained model and the frozen encoders it sees photographs with, on one device: called with a
    photograph and an expression it gives an `Answer`.

    Made by `load`. `digests` says which weights and recipe answer, `size` what --size named, here or
    for the run. `with svp.load(...) as seg:` frees
    the models at its end.
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
        reject_above: float | None = None,
        decoder: bool = True,
    ) -> None:
        trained = trained if decoder else trained.without_decoder()
        trained = trained.to_answer(device, lm_weights, reject_above)
        self._trained, self._plan, self._where = trained, plan, where
        self._source, self._encoder = source, encoder
        self._device, self.size = device, size
        compiled = compiled and torch.device(device).type == "cuda"
        self._passes = Passes(trained.model, "inductor" if compiled else None)
        self._sessions: OrderedDict[str, ImageSession] = OrderedDict()
        self.digests = trained.digests | {"precompute": plan.recipe.digest()}

    @overload
    def __call__(self, image: Photo, expression: str, *, generate: bool = False) -> Answer: ...
    @overload
    def __call__(
        self, image: Photo, expression: list[str] | tuple[str, ...], *, generate: bool = False
    ) -> list[Answer]: ...

    def __call__(
        self, image: Photo, expression: Expressions, *, generate: bool = False
    ) -> Answer | list[Answer]:
        """The answer to an expression, or to each of a list: the photograph is encoded once.

        image     path (trusted: links and any name are read), bytes of a JPEG, PNG or WEBP file, PIL
                  image, or (H,W,3) uint8 RGB
        generate  let the model answer by itself; it may then give no mask

        Raises MissingError (no such photograph), ImageError (it cannot be used), ConfigError (no
        expression, or toy models on data that is not generated).
        """
        require_expressions((expression,) if isinstance(expression, str) else expression)
        return self.image(image)(expression, generate=generate)

    def image(self, image: Photo) -> ImageSession:
        """The photograph, encoded and read, to be asked about as often as one likes.

        The last `REMEMBERED` photographs are kept, by their bytes: one that comes again, here or in
        a call, is not encoded again. Arguments and errors as those of a call.
        """
        if "_trained" not in vars(self):
            raise ConfigError("this segmenter is closed: load the model again")
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            name, generated = place_photo(image, root / COPY)
            key = xxhash.xxh3_128_hexdigest((root / COPY).read_bytes())
            self.require_real(name, generated=generated)
            if key not in self._sessions:
                self._sessions[key] = self._encoded(root)
                if len(self._sessions) > REMEMBERED:
                    self._sessions.popitem(last=False)
            self._sessions.move_to_end(key)
            return self._sessions[key]

    def require_real(self, name: str, *, generated: bool = False) -> None:
        """Raises ConfigError where a tiny model would answer about other than generated scenes.

        name  of the photograph in the message; with size="tiny" nothing is raised
        """
        require_real_models(
            name,
            generated=generated,
            size=self.size,
            precompute=self._plan.recipe,
            language_model=self._trained.recipe.model.init,
            instead="a model trained with `svp train --size small` (or paper) and the recipe "
            "of its cache with --cache",
        )

    def close(self) -> None:
        """Free the models and what was kept of photographs; answers stay."""
        self._sessions.clear()
        for name in ("_trained", "_passes", "_source", "_encoder"):
            vars(self).pop(name, None)
        if torch.device(self._device).type == "cuda":
            torch.cuda.empty_cache()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _encoded(self, root: Path) -> ImageSession:
        """Of the photograph `COPY` in the folder `root`, in which a plan is put."""
        began = time.perf_counter()
        header = image_header(root / COPY)
        photo = ImageRecord(1, COPY, *header.upright)
        content = Content((photo,), "", {})
        create_cache(root / "plan", build_plan(content, self._plan.recipe, root, known=self._plan))
        where = replace(self._where, images=root)
        reader = LiveReader(root / "plan", where, self._device, self._source, self._encoder)
        selector = self._trained.budget.selector(self._plan.recipe.order)
        visuals = CachedVisuals(
            [reader], self._trained.model.projector.needs, selector=selector,
            decoder=self._trained.decoder,
        )  # fmt: skip
        entry = Entry("", photo.image_id, 0, 0, photo.height, photo.width)
        found = reader.superpixels(0)  # with all else that is computed of it
        seconds = time.perf_counter() - began
        encoded = Encoded(visuals, entry, read_image(root / COPY), found, seconds)
        return ImageSession(self._trained, self._passes, encoded, self._device)


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
    budget: str | None = None,
    reject_above: float | None = None,
    decoder: bool = True,
) -> Segmenter:
    """A trained model, ready for photographs.

    model    run or one of its checkpoints, by folder or address, a folder of `svp export`, a published
             GLaMM or LISA folder, hub:OWNER/NAME of one, or "tiny": the model of this package, for
             generated scenes
    device   auto, cpu, cuda, cuda:N
    size     "tiny" lets the tiny models answer on photographs too; default the variable SVP_SIZE, else
             what the run was made with
    cache    whose recipe cuts photographs; default the model's own
    sam_weights, encoder_weights  default: looked for in the usual folders, by their digests
    lm_weights  "int8": those of the language model's layers, half of bfloat16's memory; masks differ a little
    compiled    on CUDA, the language model's passes become graphs: each first one of its shape takes
                about a minute, every other is launched at once
    budget      superpixels of a photograph: auto, N or mean:N, or ask:N of each expression, by its
                words; default as the model was trained
    reject_above  the chance above which the answer is that nothing is meant: of [REJ] against [SEG],
                  default one half; of a model without [REJ] by its token answers, default never
    decoder     False: masks are unions of superpixels, of a model that was trained with token answers;
                SAM's decoder and its embedding of the photograph are not needed

    Raises MissingError (no such model or weights), WeightsError, PlanMismatchError, ConfigError.
    """
    found = _find(model)
    if cache is not None and isinstance(found, Published):
        raise ConfigError("a published model has its own preprocessing: leave out cache")
    return open_segmenter(
        found,
        device=device,
        size=size or os.environ.get("SVP_SIZE"),
        cache=expand(cache) if cache is not None else None,
        sam_weights=expand(sam_weights) if sam_weights is not None else None,
        encoder_weights=expand(encoder_weights) if encoder_weights is not None else None,
        lm_weights=lm_weights,
        compiled=compiled,
        budget=budget,
        reject_above=reject_above,
        decoder=decoder,
    )


def open_segmenter(
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
    budget: str | None = None,
    reject_above: float | None = None,
    decoder: bool = True,
) -> Segmenter:
    """`load` for a model that was found; `flags` as `open_trained`, `own_sam` as `Encoders`."""
    device, here, wanted = pick_device(device), Path("."), budget_of(found, budget)
    size = chosen_size(size, () if cache is None else (cache,), data_of_run(found))
    source: SuperpixelSource
    encoder: Encoder | PairEncoder
    if not decoder:
        require_token_answers(found, "--no-decoder")
    if isinstance(found, Published):
        encoders = Encoders(
            device=device, own_sam=own_sam, sam=sam_weights, encoder=encoder_weights
        )
        recipe, where = live_recipe(found, encoders, here)
        source, encoder = live_models(found, recipe, where, encoders)
    else:
        places = LocalPaths(here, sam_weights, encoder_weights)
        recipe, where = _recipe(found, cache, size, places, wanted, decoder)
        source = build_generator(
            recipe.superpixels, where, device, embeddings=recipe.store_sam_embeddings
        )
        encoder = build_encoder(recipe.features, where, device)
    plan = sized_plan(recipe)
    require_budget_of(found, wanted, plan, cache)
    trained = open_trained(found, plan, flags or TrainFlags(), decoder=decoder).at(wanted)
    return Segmenter(
        trained, plan, where, source, encoder, device=device, size=size, lm_weights=lm_weights,
        compiled=compiled, reject_above=reject_above, decoder=decoder,
    )  # fmt: skip


def _find(model: str | Path) -> Found:
    """Raises MissingError, WeightsError."""
    if isinstance(model, str) and model.startswith(PREFIX):
        return find_trained(None, Path(), model)
    folder = shipped_model(as_place(model))
    if not isinstance(folder, Path):
        return find_trained(folder, Path())
    if (folder / "config.json").is_file() and not is_export(folder):
        return find_trained(None, Path(), str(folder))
    return find_trained(folder, Path())


def _recipe(
    found: Found,
    cache: Place | None,
    size: str | None,
    where: LocalPaths,
    budget: Budget,
    decoder: bool,
) -> tuple[Recipe, LocalPaths]:
    """Preprocessing recipe of the segmenter, and the paths of its weights."""

    def read(recipe: Recipe) -> Recipe:
        if not decoder:  # nothing reads SAM's embedding
            without = {"store_sam_embeddings": False, "sam_stored": "float16"}
            recipe = recipe.model_copy(update=without)
        require_read(recipe, where)
        return recipe

    if isinstance(found, Exported) and cache is None:
        return read(found.recipe), where
    cache = cache or cache_of_run(data_of_run(found))
    cache = cache or (CACHE if holds_cache(CACHE) else None)
    if cache is not None:
        fits = partial(require_fit, found, decoder=decoder)
        checks = fits, partial(require_budget_of, found, budget)
        return read(Plan.load(cache, chosen_view(cache, *checks)).recipe), where
    given = {"sam_weights": where.sam, "encoder_weights": where.encoder}
    paths = {name: str(path) if path else None for name, path in given.items()}
    flags = Flags(**paths, store_sam_embeddings=decoder)  # type: ignore[arg-type]
    return resolve(size, None, flags, (), where.images)
