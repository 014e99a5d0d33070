"""`svp train`: a request becomes a job, in a new run folder or in that of the run it goes on with."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from ..pipeline.cmdline import resuming
from ..pipeline.store.atomic import check_writable
from .assemble import assemble
from .decoder import doubt, identity
from .feed.fill import CachedVisuals
from .fit.going_on import find_checkpoint
from .fit.job import Job, TrainReport
from .fit.loop import split_evenly, train
from .fit.optim import require_packages
from .fit.preview import Previews
from .fit.runfolder import RunFolder
from .fit.stage import make_accelerator, recompute
from .held_out import open_held_out, scorer
from .opening import Opened, TrainRequest, open_training, pick_device, stream_of
from .recipe import TrainRecipe
from .rundata import RunData, Used, used, weights_of, write_run_data
from .warm import imitate


def train_command(request: TrainRequest) -> TrainReport:
    """`svp train`. Raises what `open_training`, `assemble` and `train` raise."""
    if request.deterministic:
        torch.use_deterministic_algorithms(True)
    check_writable(request.runs / "run")
    device = pick_device(request.device)
    opened = open_training(request, device)
    recipe = opened.recipe
    require_packages(recipe.optimizer)
    held = open_held_out(request, opened)
    accelerator = make_accelerator(recipe, device)
    world, main = accelerator.num_processes, accelerator.is_main_process
    split_evenly(recipe, world)
    with accelerator.main_process_first():
        table = opened.table(request.partial, request.runs, request.say)
    first = opened.readers[0].plan
    made = assemble(recipe, first, opened.places)
    visuals = CachedVisuals(
        opened.readers, made.model.projector.needs, pinned=accelerator.device.type == "cuda"
    )
    stream = stream_of(
        recipe, table, visuals, made.vocab, accelerator.process_index, world,
        fixed=made.model.projector.num_tokens(visuals.plan.grid),
        max_failures=opened.data.max_failures,
    )  # fmt: skip
    content = json.loads(recipe.canonical())
    found = find_checkpoint(request.resume, request.runs, recipe, content, stream.identity)
    if made.teacher is not None and found is None:  # a checkpoint holds what came of the lesson
        images = [table.entry(i) for i in range(len(table))]
        line = imitate(made.model.projector, made.teacher, visuals, images, recipe.seed)
        if main:
            request.say(line)
    folder = _folder(request, recipe, stream.identity, found.path if found else None, main)
    with folder.unless_refused(new=found is None):
        scored = held.used if held else None
        weights = weights_of(opened.places)
        known = RunData(training=_training(opened), validation=scored, weights=weights)
        write_run_data(folder, known)
        if recipe.run.gradient_checkpointing:
            recompute(made.model)
        doubts = [line for line in (doubt(recipe, first),) if line]
        notes = [
            *table.notes,
            *stream.too_long.faults().notices(),
            *(held.notes if held else ()),
            *doubts,
        ]
        for line in [*notes, f"run folder: {folder.path}"] if main else []:
            request.say(line)
        previews = None
        if main and recipe.run.preview:
            photos = opened.source.image_root
            previews = Previews(
                table,
                opened.readers,
                visuals,
                made.vocab,
                photos=photos,
                out=folder.path / "previews",
            )
        # With --resume auto the command itself goes on.
        hint = request.hint if request.resume == "auto" else resuming(request.hint, folder.path)
        job = Job(
            recipe=recipe, model=made.model, stream=stream, folder=folder, accelerator=accelerator,
            resume=found, hint=hint, skip=request.skip_nonfinite,
            new_rows=made.new_rows, preview=previews, say=request.say, sam=identity(first),
            validate=scorer(held, made, str(accelerator.device)) if held else None,
        )  # fmt: skip
        return train(job)


def _training(opened: Opened) -> Used:
    caches = {reader.path: reader.plan.id for reader in opened.readers}
    return used(opened.data, opened.recipe.data.split, caches)


def _folder(
    request: TrainRequest,
    recipe: TrainRecipe,
    identity: Mapping[str, str],
    checkpoint: Path | None,
    main: bool,
) -> RunFolder:
    """The run's folder: that of its checkpoint, or a new one all ranks agree on."""
    if checkpoint is not None:
        return RunFolder(checkpoint.parents[1], main=main)
    from accelerate.utils import broadcast_object_list

    made = RunFolder.create(request.runs, recipe, identity, main=main)
    (path,) = broadcast_object_list([str(made.path)])
    return RunFolder(Path(path), main=main)
