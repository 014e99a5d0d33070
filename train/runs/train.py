"""`svp train`: set up a new run, or resume one, and train."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...pipeline.io.atomic import check_writable
from ...pipeline.process import pick_device, resuming
from ...pipeline.weights.reference import NONE
from ..data.collate import CachedVisuals
from ..data.encoder_identity import features_of
from ..data.length_cuts import most_samples
from ..data.sam_identity import doubt, identity
from ..distributed import agree, decided, first_then_others, flat, rank_and_world, together
from ..estimates.memory import GIB
from ..estimates.sizing import LARGEST, LARGEST_CPU, Choice, choose, demand, settled, this_device
from ..estimates.typical_batch import SUPERPIXELS, typical_image
from ..estimates.utilisation import utilisation_of
from ..factory import assemble, language_of, new_projector, outline
from ..options import resolve_plain
from ..recipe import TrainRecipe, share_of, split_evenly
from ..trainer.checkpoint import Checkpoint
from ..trainer.first_lesson import TAUGHT, teach
from ..trainer.job import Job, TrainReport
from ..trainer.optimizers import require_packages
from ..trainer.prepare import (
    join_group,
    make_accelerator,
    make_ready,
    recompute,
    zero_level,
)
from ..trainer.previews import Previews
from ..trainer.remote_run import RemoteRun, folder_of
from ..trainer.resume import agreed_checkpoint, checkpoint_to_resume, find_checkpoint
from ..trainer.run_data import RunData, resumed, used, weights_of, write_run_data
from ..trainer.run_folder import RunFolder
from ..trainer.trackers import chosen_trackers
from ..trainer.trainer import train
from ..warm_start import imitate
from .held_out import HeldOut, open_held_out, scorer
from .inputs import (
    Opened,
    TrainRequest,
    example_of,
    next_commands,
    open_training,
    stream_of,
    with_caches,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)

AUTO = "auto"


def completed(request: TrainRequest) -> TrainRequest:
    """The request with what it leaves to the run of --resume, the same in every process.

    Raises ConfigError for a recipe that is none, MissingError, WeightsError for a run that is none.
    """
    join_group(pick_device(request.device))
    with together("request"):
        resolve_plain(request.size, request.recipe_file, request.flags, request.overrides)
        if request.resume in (None, AUTO):
            return request
        named = str(request.resume)
        found = agreed_checkpoint(lambda: checkpoint_to_resume(named))
        assert found is not None
        return resumed(replace(request, resume=found.name))


def train_command(request: TrainRequest) -> TrainReport:
    """`svp train`. Raises what `open_training`, `assemble` and `train` raise.

    Processes on several machines may see other files: an error of one is raised in all of them, and
    they train only if they have read the same.
    """
    if request.deterministic:
        torch.use_deterministic_algorithms(True)
    device = pick_device(request.device)
    join_group(device)
    with together("inputs"):
        # What can be refused without reading data or weights is refused first.
        runs = folder_of(request.runs)
        check_writable(runs)
        if not isinstance(request.runs, Path) and rank_and_world()[0] == 0:
            request.runs.require_create()
        trackers = chosen_trackers(request.log)
        request = with_caches(request)
        opened = open_training(request, device)
        recipe = opened.recipe
        require_packages(recipe.optimizer)
        held = open_held_out(request, opened)
    agree("recipe", flat(json.loads(recipe.canonical()), "recipe"))

    # The split of a global batch depends on the devices, and the table and loader on the split.
    accelerator = make_accelerator(recipe, device)
    world, main = accelerator.num_processes, accelerator.is_main_process
    share_of(recipe, world)  # refused before anything is estimated
    if AUTO in (recipe.run.micro_batch, recipe.run.gradient_checkpointing):
        choice = choose_for(accelerator, recipe, opened)
        recipe = settled(recipe, choice)
        opened = replace(opened, recipe=recipe)
        log.info(choice.line())
    split_evenly(recipe, world)
    if request.tier is not None:
        with together("tier"):
            for reader in opened.readers:
                request.tier.require_batch(reader.plan, most_samples(recipe.run.images))

    # The first process makes the table, the others find it.
    table = first_then_others("table", lambda: opened.table(request.partial, runs))
    example, photos = example_of(opened.source, table), opened.source.image_root
    # The table has what training reads: records, sentences and annotations are let go, about a
    # kilobyte of each sentence.
    opened = opened.without_sentences()
    first = opened.readers[0].plan
    with together("model"):
        made = assemble(recipe, first, opened.places)
        visuals = CachedVisuals(
            opened.readers,
            made.model.projector.needs,
            pinned=accelerator.device.type == "cuda",
            selector=recipe.budget.selector(first.recipe.order),
        )
        stream = stream_of(
            recipe, table, visuals, made.vocab, accelerator.process_index, world,
            fixed=made.model.projector.most_tokens(visuals.plan.grid),
            max_failures=opened.data.max_failures,
        )  # fmt: skip
    skipped = {"--skip-nonfinite": str(request.skip_nonfinite)}
    agree("data", dict(stream.identity) | _held_identity(held) | skipped)

    # Data and recipe are known: a run of both may be there to go on with.
    content = json.loads(recipe.canonical())
    found = agreed_checkpoint(
        lambda: find_checkpoint(request.resume, request.runs, recipe, content, stream.identity)
    )
    if made.teacher is not None and found is None:  # a checkpoint holds what came of the lesson
        with together("warm start"):
            images = [table.entry(i) for i in range(len(table))]
            line = imitate(made.model.projector, made.teacher, visuals, images, recipe.seed)
        if main:
            log.info(line)
    taught: list[str] = []
    if recipe.model.first_lesson and recipe.model.init == NONE and found is None:
        with together("first lesson"):
            line = teach(made.model, stream, visuals, recipe.seed)
            taught = [n for n, _ in made.model.named_parameters() if n.startswith(TAUGHT)]
        if main:
            log.info(line)

    # From here on files are written; a new folder is removed again if the run is refused.
    folder = _folder(request, recipe, stream.identity, found, main, trackers)
    with folder.unless_refused(new=found is None):
        with together("set-up"):
            scored = held.used if held else None
            weights = weights_of(opened.places)
            ids = {reader.path: reader.plan.id for reader in opened.readers}
            training = used(opened.data, recipe.data.split, ids)
            known = RunData(
                training=training, validation=scored, weights=weights, size=request.size
            )
            write_run_data(folder, known)
            if folder.remote is not None and found is None:
                folder.remote.claim()
            if recipe.run.recompute:
                recompute(made.model)
            anew = new_projector(recipe, first, opened.places)
            notes = [
                *table.notes,
                *stream.too_long.faults().notices(),
                *(held.notes if held else ()),
            ]
            notes += [line for line in (doubt(recipe, first), anew) if line]
            for line in [*notes, f"run folder: {folder.name}"] if main else []:
                log.info(line)
            previews = None
            if main and recipe.run.preview and recipe.data.task == "segment":
                out = folder.path / "previews"
                previews = Previews(
                    table, opened.readers, visuals, made.vocab, photos=photos, out=out
                )
        # With --resume auto the command itself resumes the run.
        hint = request.hint if request.resume == "auto" else resuming(request.hint, folder.name)
        job = Job(
            recipe=recipe, model=made.model, stream=stream, folder=folder, accelerator=accelerator,
            resume=found, hint=hint, skip=request.skip_nonfinite,
            new_rows=made.new_rows, taught=taught, preview=previews, sam=identity(first),
            features=features_of(first.recipe, recipe.model.projector.name),
            validate=scorer(held, made, str(accelerator.device), recipe.budget) if held else None,
            left_out=table.left_out | {"sentences too long": stream.too_long.found},
            utilisation=utilisation_of(accelerator.device, recipe.model.dtype),
        )  # fmt: skip
        done = train(job)
        if request.tier is not None and main:
            log.info(request.tier.line())
        return replace(done, next=next_commands(request, recipe, example, folder.name))


def choose_for(accelerator: "Accelerator", recipe: TrainRecipe, opened: Opened) -> Choice:
    """Resolve `auto` for the smallest device of the run, the same on every rank."""
    # The largest stage is the last; which rows are new does not matter, three of them do.
    plan, reader = opened.readers[0].plan, opened.readers[0]
    model = outline(recipe, plan, language_of(recipe, opened.places))
    make_ready(model, recipe, len(recipe.stages) - 1, (3, 4, 7))
    counts = reader.counts[reader.counts > 0]
    tokens = int(np.percentile(counts, 95)) if len(counts) else SUPERPIXELS
    world = accelerator.num_processes
    image = typical_image(recipe, plan, max(1, tokens))
    need = demand(recipe, model, image, world, zero_level(accelerator))

    # All ranks must choose the same: the one with the least memory decides.
    gpu = this_device(accelerator.device, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    cpu = accelerator.device.type == "cpu"
    own = torch.tensor([gpu.memory / GIB], device=accelerator.device)
    least = int(accelerator.gather(own).min().item() * GIB)
    gpu = replace(gpu, memory=least)
    return choose(recipe, need, gpu, world, LARGEST_CPU if cpu else LARGEST)


def _folder(
    request: TrainRequest,
    recipe: TrainRecipe,
    identity: Mapping[str, str],
    found: Checkpoint | None,
    main: bool,
    trackers: Sequence[str],
) -> RunFolder:
    """The run's folder: that of its checkpoint, or a new one all ranks agree on."""
    if found is not None:
        remote = RemoteRun(found.home) if main and found.home else None
        with together("run at its address"):
            if remote is not None:
                remote.begin(found.state.step)
        return RunFolder(found.path.parents[1], main=main, trackers=trackers, remote=remote)
    runs = folder_of(request.runs)
    path = Path(decided("run folder", lambda: str(RunFolder.create(runs, recipe, identity).path)))
    at = request.runs
    remote = None if isinstance(at, Path) or not main else RemoteRun(at.sub(path.name))
    return RunFolder(path, main=main, trackers=trackers, remote=remote)


def _held_identity(held: HeldOut | None) -> dict[str, str]:
    """Identity of the images that scores are taken on in training, by all ranks together."""
    if held is None:
        return {"held-out images": "none"}
    caches = ", ".join(cache.id for cache in held.used.caches)
    return {"held-out images": str(len(held.items)), "held-out cache": caches}
