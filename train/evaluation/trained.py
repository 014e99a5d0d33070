"""Trained model ready for evaluation, together with its prompts."""

from dataclasses import dataclass, replace

from ...model.inference.int8_linear import use_int8
from ...model.inference.precision import cast_weights
from ...model.ris import RisModel
from ...pipeline.errors import ConfigError
from ...pipeline.superpixels.budget.selector import AUTO, Budget
from ..data.tokenizer import Vocabulary
from ..recipe import TrainRecipe
from ..trainer.checkpoint import Checkpoint
from .rejection import HALF

INT8 = "int8"


def require_forced(
    generate: bool, reject_above: float | None, decoder: bool, budget: Budget
) -> None:
    """ConfigError for what decides over given answers where the model makes its own."""
    asked = {
        "--reject-above": reject_above is not None,
        "--no-decoder": not decoder,
        f"--budget {budget.text}": budget.ask is not None,
    }
    if generate and any(asked.values()):
        flag = next(flag for flag, given in asked.items() if given)
        raise ConfigError(f"{flag} is for given answers: leave out --generate")


@dataclass(frozen=True)
class Trained:
    """A model in evaluation mode, its words, and where it comes from.

    digests     what results of it are to be named after
    checkpoint  of the run; None for a model that is no run's
    budget      of superpixels that it answers with
    reject_above  chance above which nothing is meant (`rejection`); None: one half, of [REJ] alone
    decoder     False: masks are unions of the superpixels that its token answers choose
    """

    model: RisModel
    vocab: Vocabulary
    recipe: TrainRecipe
    digests: dict[str, str]
    checkpoint: Checkpoint | None = None
    budget: Budget = AUTO
    reject_above: float | None = None
    decoder: bool = True

    def at(self, budget: Budget) -> "Trained":
        """The model at a budget of superpixels, which its results are named after."""
        if budget.auto or budget.drawn:
            return self
        return replace(self, budget=budget, digests=self.digests | {"budget": budget.text})

    def without_decoder(self) -> "Trained":
        """The model whose masks are unions of superpixels, of one with token answers."""
        return replace(self, decoder=False, digests=self.digests | {"decoder": "none"})

    def to_answer(
        self, device: str, lm_weights: str | None = None, reject_above: float | None = None
    ) -> "Trained":
        """The model on `device`, its weights in the dtype of answers; it is no longer one to train.

        lm_weights  "int8": those of the language model's layers

        Raises ConfigError for a `reject_above` that is no chance, or of a model without one.
        """
        digests, above, rej = self.digests, reject_above, self.vocab.rej is not None
        if above is not None:
            if not 0 <= above <= 1:
                raise ConfigError(f"reject_above={above}: need a chance, 0 to 1")
            if not rej and self.model.projector.answers is None:
                raise ConfigError(
                    "reject_above: this model has no answer [REJ], and no token answers; one that has "
                    "them is trained with --set model.rejection=true or "
                    "--set model.projector.options.token_answers=true"
                )
            if not rej or above != HALF:  # [REJ] decides at one half anyway
                digests = digests | {"reject_above": str(above)}
        if lm_weights == INT8:
            use_int8(self.model.lm)
            digests = digests | {"lm_weights": INT8}
        cast_weights(self.model.to(device))
        return replace(self, digests=digests, reject_above=above)
