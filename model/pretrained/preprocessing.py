"""Preprocessing config of an exported model: SAM, encoder and superpixel recipe."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from ...pipeline.fetch.encoder_specs import Colour
from ...pipeline.recipe import FeatureConfig, Recipe, encoder_row


class Preprocessing(BaseModel):
    """Image preprocessing, as `svp precompute` did it for the training images.

    recipe         superpixels, SAM (type and digest of its weights), encoder, view and grids
    mean, std      of the encoder's input, RGB in [0,1]
    protocol       in which the model is asked; its words follow from the tokenizer beside
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    recipe: Recipe
    mean: Colour
    std: Colour
    protocol: Literal["full"] = "full"

    @classmethod
    def of(cls, recipe: Recipe) -> "Preprocessing":
        """That of a cache's recipe; the SAM embedding is always needed."""
        mean, std = normalisation(recipe.features)
        kept = recipe.model_copy(update={"store_sam_embeddings": True})
        return cls(recipe=kept, mean=mean, std=std)


def normalisation(config: FeatureConfig) -> tuple[Colour, Colour]:
    """Mean and spread that the encoder's pixels are normalised with."""
    spec = encoder_row(config.encoder)
    assert spec is not None, "the recipe has checked the name"
    return spec.mean, spec.std
