"""A trained model, ready to be asked: a run's checkpoint on top of the weights it started from.

A checkpoint holds what was trained; the rest comes from where the run took it, and must be those
very files (their digests are in the recipe). The last stage that ran decides whether SSPE is added
and adapters are there.
"""

from dataclasses import dataclass
from pathlib import Path

from ...model.ris import RisModel
from ...pipeline.errors import MissingError
from ...pipeline.store.plan import Plan
from ...pipeline.text import show
from ..assemble import assemble
from ..fit.checkpoint import Checkpoint, load_weights
from ..fit.going_on import named_checkpoint
from ..fit.runfolder import CHECKPOINTS
from ..fit.stage import make_ready
from ..recipe import TrainRecipe, parse_train_recipe
from ..settings import TrainFlags, place_weights
from ..text.tokens import Vocabulary


@dataclass(frozen=True)
class Trained:
    """A model in evaluation mode on the CPU, its words, and where it comes from."""

    model: RisModel
    vocab: Vocabulary
    recipe: TrainRecipe
    checkpoint: Checkpoint

    @property
    def digests(self) -> dict[str, str]:
        """What results of this model are to be named after."""
        return {"recipe": self.recipe.digest(), "checkpoint": self.checkpoint.digest}


def find_trained(asked: Path | None, runs: Path) -> Checkpoint:
    """The checkpoint `asked` for (a run folder or one of its checkpoints), or the newest in `runs`.

    Raises MissingError if there is none, WeightsError if it is damaged.
    """
    if asked is not None:
        return named_checkpoint(asked)
    found = [path.parents[1] for path in runs.glob(f"*/{CHECKPOINTS}/step-*[0-9]")]
    if not found:
        raise MissingError(
            f"no trained model in {show(str(runs), 300)}: train one with "
            "`svp train --from-cache` or `svp quickstart`, or name a run folder with --checkpoint"
        )
    return named_checkpoint(max(found, key=lambda run: run.stat().st_mtime_ns))


def open_trained(checkpoint: Checkpoint, plan: Plan, flags: TrainFlags) -> Trained:
    """The model of a checkpoint for caches with `plan`.

    flags  where the weights lie that the run started from (`lm`, `init`, `sam_decoder`)

    Raises PlanMismatchError (a cache of another encoder, other weights than the run's),
    MissingError, WeightsError, ConfigError.
    """
    raw = dict(checkpoint.state.recipe)
    recipe = parse_train_recipe(raw, str(checkpoint.path))
    places = place_weights(recipe.model.model_dump(mode="json"), flags)
    made = assemble(recipe, plan, places)
    index, _ = recipe.stage_at(max(0, checkpoint.state.step - 1))
    make_ready(made.model, recipe, index, made.new_rows)
    load_weights(made.model, checkpoint.weights(), str(checkpoint.path))
    made.model.requires_grad_(False).eval()
    return Trained(made.model, made.vocab, recipe, checkpoint)
