"""`svp train`: a request becomes a job, in a new run folder or in that of the run it goes on with."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch

from ..model.ris import RisModel
from ..pipeline.cmdline import resuming
from ..pipeline.errors import ConfigError
from ..pipeline.store.reader import CacheReader
from .assemble import Assembled, assemble, require_cache
from .evaluation.evaluate import Settings, evaluate
from .evaluation.protocols import examples, plan
from .feed.fill import CachedVisuals
from .fit.going_on import find_checkpoint
from .fit.job import Job, TrainReport, Validate
from .fit.loop import split_evenly, train
from .fit.optim import require_packages
from .fit.preview import Previews
from .fit.runfolder import RunFolder
from .fit.stage import make_accelerator, recompute
from .metrics import Counts, metrics
from .opening import Opened, TrainRequest, open_training, pick_device, source_of, stream_of
from .recipe import TrainRecipe
from .warm import imitate


def train_command(request: TrainRequest) -> TrainReport:
    """`svp train`. Raises what `open_training`, `assemble` and `train` raise."""
    if request.deterministic:
        torch.use_deterministic_algorithms(True)
    device = pick_device(request.device)
    opened = open_training(request, device)
    recipe = opened.recipe
    require_packages(recipe.optimizer)
    accelerator = make_accelerator(recipe, device)
    world, main = accelerator.num_processes, accelerator.is_main_process
    split_evenly(recipe, world)
    with accelerator.main_process_first():
        table = opened.table(request.partial, request.say)
    made = assemble(recipe, opened.readers[0].plan, opened.places)
    visuals = CachedVisuals(
        opened.readers, made.model.projector.needs, pinned=accelerator.device.type == "cuda"
    )
    stream = stream_of(recipe, table, visuals, made.vocab, accelerator.process_index, world)
    content = json.loads(recipe.canonical())
    found = find_checkpoint(request.resume, request.runs, recipe, content, stream.identity)
    if made.teacher is not None and found is None:  # a checkpoint holds what came of the lesson
        images = [table.entry(i) for i in range(len(table))]
        line = imitate(made.model.projector, made.teacher, visuals, images, recipe.seed)
        if main:
            request.say(line)
    folder = _folder(request, recipe, stream.identity, found.path if found else None, main)
    if recipe.run.gradient_checkpointing:
        recompute(made.model)
    for line in [*table.notes, f"run folder: {folder.path}"] if main else []:
        request.say(line)
    previews = None
    if main and recipe.run.preview:
        photos = opened.source.image_root
        previews = Previews(
            table, opened.readers, visuals, made.vocab, photos=photos, out=folder.path / "previews"
        )
    # With --resume auto the command itself goes on.
    hint = request.hint if request.resume == "auto" else resuming(request.hint, folder.path)
    job = Job(
        recipe=recipe, model=made.model, stream=stream, folder=folder, accelerator=accelerator,
        resume=found, hint=hint, skip=request.skip_nonfinite,
        new_rows=made.new_rows, preview=previews, say=request.say,
        validate=_validation(request, opened, made, str(accelerator.device)),
    )  # fmt: skip
    return train(job)


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


def _validation(
    request: TrainRequest, opened: Opened, made: Assembled, device: str
) -> Validate | None:
    """Scores on held-out images by protocol full: every sentence, fixed wording."""
    if request.validate is None:
        return None
    readers = (CacheReader(request.validate),)
    require_cache(opened.recipe, readers[0].plan, request.validate)
    split = readers[0].plan.split or "val"
    if split == opened.recipe.data.split:
        raise ConfigError(f"--validate: this cache is of split {split}, which is trained on")
    source = source_of(request.data, opened.recipe, split)
    items = examples(source, readers, opened.recipe.run.validate_images)
    units = plan(items, "full", wording=made.vocab.wording)
    visuals = CachedVisuals(readers, made.model.projector.needs)

    def validate(model: RisModel) -> Mapping[str, float]:
        rows = evaluate(model, units, made.vocab, visuals, Settings(device=device))
        table = torch.tensor([(r.intersection, r.union, r.target) for r in rows]).T.numpy()
        scores = metrics(Counts(*table))
        return {name: value for name, value in scores.items() if math.isfinite(value)}

    return validate
