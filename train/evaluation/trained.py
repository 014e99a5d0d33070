"""Trained model ready for evaluation, together with its prompts."""

from dataclasses import dataclass

from ...model.ris import RisModel
from ..data.tokenizer import Vocabulary
from ..recipe import TrainRecipe
from ..trainer.checkpoint import Checkpoint


@dataclass(frozen=True)
class Trained:
    """A model in evaluation mode on the CPU, its words, and where it comes from.

    digests     what results of it are to be named after
    checkpoint  of the run; None for a model that is no run's
    """

    model: RisModel
    vocab: Vocabulary
    recipe: TrainRecipe
    digests: dict[str, str]
    checkpoint: Checkpoint | None = None
