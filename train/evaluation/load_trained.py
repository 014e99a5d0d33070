"""Load a trained model for evaluation: a run's checkpoint, an export, or a published folder.

A checkpoint holds what was trained; the rest comes from where the run took it, and must be those
very files (their digests are in the recipe). The last stage that ran decides whether SSPE is added
and adapters are there.
"""

import logging
from pathlib import Path

from ...model.pretrained.config import ProjectorSpec, is_export
from ...model.projectors import projector_class
from ...pipeline.cache.plan import Plan
from ...pipeline.display import show
from ...pipeline.errors import ConfigError
from ...pipeline.store import Place
from ...pipeline.superpixels.budget.selector import AUTO, Budget, parse_budget
from ..data.budget_draw import require_budget
from ..data.cache_fit import require_cache
from ..data.encoder_identity import require_same_features
from ..data.sam_identity import require_same_sam
from ..factory import assemble
from ..options import TrainFlags, place_weights
from ..recipe import ProjectorConfig, parse_train_recipe
from ..trainer.checkpoint import Checkpoint, load_weights
from ..trainer.prepare import make_ready
from ..trainer.remote_run import RemoteRun, folder_of, runs_at
from ..trainer.resume import named_checkpoint
from ..trainer.run_data import RunData, read_run_data, with_weights
from ..trainer.run_status import newest_run, no_model_in
from .exported import Exported, open_exported, require_plan
from .named_model import require_model
from .published_models import Published, find_published, open_published
from .trained import Trained

log = logging.getLogger(__name__)

Found = Checkpoint | Published | Exported


def find_trained(asked: Place | None, runs: Place, published: str | None = None) -> Found:
    """Find the model `asked` for: a run or one of its checkpoints, by folder or address, or a folder
    of `svp export`; None: the newest run in `runs`.

    published  a GLaMM or LISA folder, or `hub:OWNER/NAME`, instead

    Raises MissingError if there is none, WeightsError if it is damaged, ConfigError for both.
    """
    require_model(asked, runs, published)
    if published is not None:
        return find_published(published)
    if isinstance(asked, Path) and is_export(asked):
        return Exported.open(asked)
    return named_checkpoint(asked) if asked is not None else newest_checkpoint(runs)


def newest_checkpoint(runs: Place) -> Checkpoint:
    """The last checkpoint of the newest run that has one. Raises MissingError."""
    if isinstance(runs, Path):
        run = newest_run(runs)
        log.info(f"model: {show(str(run), 300)}, the newest run")
        return named_checkpoint(run)
    for remote in runs_at(runs):
        if (found := remote.newest()) is not None:
            log.info(f"model: {show(remote.store.where(), 300)}, the newest run")
            return found
    raise no_model_in(runs.where())


def results_of(found: Found, runs: Place) -> tuple[Path, RemoteRun | None]:
    """The folder that results of a model go to, and the run at an address that they are sent to:
    `eval` of its run, or of one of its own in `runs`.
    """
    if isinstance(found, Checkpoint):
        home = found.home
        return found.path.parents[1] / "eval", RemoteRun(home) if home else None
    if isinstance(found, Exported):
        name = f"exported-{found.folder.resolve().name}"
    else:
        name = f"published-{found.name}"
    remote = None if isinstance(runs, Path) else RemoteRun(runs.sub(name))
    return folder_of(runs) / name / "eval", remote


def open_trained(found: Found, plan: Plan, flags: TrainFlags, *, decoder: bool = True) -> Trained:
    """The model of a checkpoint, or a published one, for caches with `plan`.

    flags  where the weights lie that a run started from (`lm`, `init`, `sam_decoder`); those not
           named are looked for where the run found them
    decoder  False: its masks are not decoded, and the caches need no SAM embeddings

    Raises PlanMismatchError (a cache of another encoder, other weights than the run's),
    MissingError, WeightsError, ConfigError.
    """
    if isinstance(found, Published):
        return open_published(found, plan)
    if isinstance(found, Exported):
        return open_exported(found, plan, decoder=decoder)
    checkpoint = found
    raw = dict(checkpoint.state.recipe)
    recipe = parse_train_recipe(raw, str(checkpoint.path))
    who = f"the run {checkpoint.path.parents[1].name}"
    require_same_sam(checkpoint.state.sam, plan, who)
    require_same_features(checkpoint.state.features, plan, recipe.model.projector.name, who)
    places = place_weights(recipe.model.model_dump(mode="json"), with_weights(checkpoint, flags))
    made = assemble(recipe, plan, places, decoder=decoder)
    index, _ = recipe.stage_at(max(0, checkpoint.state.step - 1))
    make_ready(made.model, recipe, index, made.new_rows)
    load_weights(made.model, checkpoint.weights(), str(checkpoint.path))
    made.model.requires_grad_(False).eval()
    digests = {"recipe": recipe.digest(), "checkpoint": checkpoint.digest}
    return Trained(made.model, made.vocab, recipe, digests, checkpoint)


def require_fit(
    found: Found, plan: Plan, cache: Place | None = None, *, decoder: bool = True
) -> None:
    """PlanMismatchError or ConfigError if a model cannot read caches of `plan`; nothing is loaded.

    cache    where it lies, if that is known, for the command of the message
    decoder  as `open_trained`

    Of a published model nothing is known before it is opened: it takes every plan.
    """
    if isinstance(found, Exported):
        require_plan(found, plan, cache)
    elif isinstance(found, Checkpoint):
        recipe = parse_train_recipe(dict(found.state.recipe), str(found.path))
        who, name = f"the run {found.path.parents[1].name}", recipe.model.projector.name
        require_same_sam(found.state.sam, plan, who)
        require_same_features(found.state.features, plan, name, who)
        require_cache(recipe, plan, cache, decoder=decoder)


def budget_of(found: Found, asked: str | None) -> Budget:
    """The budget that a model answers with: the one asked for, as text, else the one it was trained at.

    Raises ConfigError for a text that is no budget of answers.
    """
    own = AUTO
    if isinstance(found, Exported):
        own = found.about.budget or AUTO
    elif isinstance(found, Checkpoint):
        own = parse_train_recipe(dict(found.state.recipe), str(found.path)).budget
    if asked is None:
        return own
    budget = parse_budget(asked)
    if budget.drawn:
        raise ConfigError(
            "--budget drawn is for training: answers take auto, a number, mean:N or ask:N"
        )
    return budget if budget.auto else budget.model_copy(update={"prior": own.prior})


def require_budget_of(found: Found, budget: Budget, plan: Plan, cache: Place | None = None) -> None:
    """ConfigError or PlanMismatchError if a model cannot answer with this budget on `plan`."""
    if budget.auto or budget.drawn:
        return
    if isinstance(found, Published):
        raise ConfigError(f"--budget {budget.text}: a published model reads patches: leave it out")
    if budget.ask is not None:
        require_token_answers(found, f"--budget {budget.text}")
    require_budget(budget, _projector(found).name, plan, cache)


def require_token_answers(found: Found, flag: str) -> None:
    """ConfigError if a model was trained without what `flag` asks for."""
    if isinstance(found, Published):
        raise ConfigError(f"{flag}: a published model reads patches: leave it out")
    own = _projector(found)
    if "masks" not in projector_class(own.name).needs:
        raise ConfigError(
            f"{flag}: the tokens of projector {own.name} are not superpixels, of which masks could be "
            "made: leave it out"
        )
    if not own.options.get("token_answers"):
        raise ConfigError(
            f"{flag}: this model has no token answers: train one with `svp train --projector svp "
            "--set model.projector.options.token_answers=true`, or leave it out"
        )


def _projector(found: Checkpoint | Exported) -> ProjectorSpec | ProjectorConfig:
    if isinstance(found, Exported):
        return found.about.projector
    return parse_train_recipe(dict(found.state.recipe), str(found.path)).model.projector


def data_of_run(found: Found) -> RunData | None:
    """The record of the run of a checkpoint; None for a published model."""
    return read_run_data(found.path.parents[1]) if isinstance(found, Checkpoint) else None
