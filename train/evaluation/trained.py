"""Trained model ready for evaluation, together with its prompts."""

from dataclasses import dataclass, replace

from ...model.inference.int8_linear import use_int8
from ...model.inference.precision import cast_weights
from ...model.ris import RisModel
from ...pipeline.superpixels.budget.selector import AUTO, Budget
from ..data.tokenizer import Vocabulary
from ..recipe import TrainRecipe
from ..trainer.checkpoint import Checkpoint

INT8 = "int8"


@dataclass(frozen=True)
class Trained:
    """A model in evaluation mode, its words, and where it comes from.

    digests     what results of it are to be named after
    checkpoint  of the run; None for a model that is no run's
    budget      of superpixels that it answers with
    """

    model: RisModel
    vocab: Vocabulary
    recipe: TrainRecipe
    digests: dict[str, str]
    checkpoint: Checkpoint | None = None
    budget: Budget = AUTO

    def at(self, budget: Budget) -> "Trained":
        """The model at a budget of superpixels, which its results are named after."""
        if budget.auto or budget.drawn:
            return self
        return replace(self, budget=budget, digests=self.digests | {"budget": budget.text})

    def to_answer(self, device: str, lm_weights: str | None = None) -> "Trained":
        """The model on `device`, its weights in the dtype of answers; it is no longer one to train.

        lm_weights  "int8": those of the language model's layers
        """
        digests = self.digests
        if lm_weights == INT8:
            use_int8(self.model.lm)
            digests = digests | {"lm_weights": INT8}
        cast_weights(self.model.to(device))
        return replace(self, digests=digests)
