"""Models of a worker: those alone that the layers to make ask for."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..cache.layers import ENCODED, SAM, SUPERPIXELS
from ..recipe import Recipe
from ..records import LocalPaths

if TYPE_CHECKING:
    from ..encoders.encoder import Encoder
    from ..encoders.pair import PairEncoder
    from ..superpixels.generator import Embedder, SuperpixelSource


@dataclass(frozen=True)
class Models:
    """Models of a worker, None where no layer to make asks for one.

    embedder  SAM's image encoder, where its embeddings do not come with SAM's superpixels
    """

    source: "SuperpixelSource | None" = None
    encoder: "Encoder | PairEncoder | None" = None
    embedder: "Embedder | None" = None

    @classmethod
    def load(
        cls, recipe: Recipe, where: LocalPaths, device: str, kinds: frozenset[str]
    ) -> "Models":
        """The models that layers of these kinds need. Raises WeightsError, MissingError."""
        from ..encoders import build_encoder
        from ..superpixels.generator import Embedder, build_generator

        pixels, sam = recipe.superpixels, SAM in kinds
        source = embedder = encoder = None
        if SUPERPIXELS in kinds:
            source = build_generator(pixels, where, device, embeddings=sam and pixels.prompts_sam)
        if sam and not (source and pixels.prompts_sam):
            embedder = Embedder(pixels, where, device)
        if kinds & ENCODED:
            encoder = build_encoder(recipe.features, where, device)
        return cls(source, encoder, embedder)
