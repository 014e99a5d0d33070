"""`svp train` and `svp quickstart`; each calls one function."""

from dataclasses import replace
from typing import Any

import click

from ...pipeline.commands.console import as_json, overrides, report, several
from ...pipeline.commands.data import max_failures, source_options
from ...pipeline.commands.path_types import PATH, PLACE
from .shared import (
    DATA,
    FLAGS,
    alone,
    caches,
    dataset,
    device,
    encoders,
    made_size,
    named_caches,
    new_runs,
    require_caches,
    run_and_report,
    runs_folder,
    take,
    take_tier,
    tier,
    weights,
)

changed_recipe = several(
    overrides,
    click.option("--seed", type=click.IntRange(min=0), help="Random seed of the run."),
    click.option("--projector",
                 help="Projector with its default options: svp, mlp, qformer, ..."),
)  # fmt: skip


@click.command("train")
@caches
@tier
@dataset
@source_options
@max_failures
@made_size
@click.option("--recipe", "recipe_file", type=PATH, help="Recipe file (YAML) instead of --size.")
@changed_recipe
@click.option(
    "--optimizer",
    type=click.Choice(["adamw", "adamw8bit", "offload"]),
    help="Optimizer; offload keeps AdamW's states in host memory.",
)
@click.option("--budget", metavar="auto|N|mean:N|drawn",
              help="Superpixels per image, exactly or on average; drawn: another one each step.")  # fmt: skip
@click.option("--order", metavar="global|window:N",
              help="Order of samples: over all shards, or over N shards at a time.")  # fmt: skip
@click.option(
    "--micro-batch", type=click.IntRange(min=1), help="Images per process and forward pass."
)
@click.option("--steps", type=click.IntRange(min=1), help="Total steps; both stages shrink.")
@click.option("--limit", type=click.IntRange(min=1), help="Use only the first N images.")
@weights
@encoders
@click.option(
    "--validate", type=PLACE, metavar="CACHE", help="Validate on this cache during training."
)
@click.option("--validate-dataset", help="Data of the validation cache, if it was moved.")
@click.option("--partial", is_flag=True, help="Skip images that are in no cache.")
@new_runs
@click.option(
    "--resume",
    metavar="auto|RUN",
    help="Resume a run or checkpoint, by folder or address; auto: the newest that matches.",
)
@device
@click.option("--deterministic", is_flag=True, help="Use deterministic kernels only.")
@click.option("--skip-nonfinite", type=click.IntRange(min=0), default=0, metavar="N",
              show_default=True, help="Steps with a non-finite loss to skip before stopping.")  # fmt: skip
@click.option("--log", metavar="NAME,...",
              help="Trackers: tensorboard, wandb, mlflow, trackio; or none.")  # fmt: skip
@click.option(
    "--dry-run",
    "--plan",
    "dry_run",
    is_flag=True,
    help="Print trainable parameters, memory, tokens and hours, and stop.",
)
@as_json
def train_command(dry_run: bool, as_json: bool, **options: Any) -> None:
    """Fine-tune a model in two stages on a cache. Re-run with --resume auto to resume."""
    from ...pipeline.process import this_command
    from ..options import DataRequest, TrainFlags, TrainRequest, resolve_fields
    from ..runs.needs import require_training
    from ..runs.newest_cache import newest_cache

    named = bool(options["caches"]) or options["dataset"] is not None
    request = TrainRequest(
        data=DataRequest(**take(options, DATA)),
        flags=TrainFlags(**take(options, FLAGS)),
        caches=named_caches(options.pop("caches")),
        tier=take_tier(options),
        hint=this_command(),
        **options,
    )
    if dry_run or alone():  # what is mistyped or not there is told before PyTorch is imported
        asked = (request.size, request.recipe_file, request.flags, request.overrides)
        split = resolve_fields(*asked).data.split
        require_caches(request.caches, split)
        if named and not request.caches and request.resume in (None, "auto"):
            newest = newest_cache(split, request.data.dataset)
            request = replace(request, caches=(newest,))
    if not (dry_run or named or request.resume):
        raise click.UsageError(NO_CACHE)
    if dry_run:
        from ..runs.dry_run import dry_run_command

        return report(dry_run_command(request), as_json)
    require_training("svp train")
    from ..runs.train import completed, train_command

    def run(asked: TrainRequest) -> Any:
        request = completed(asked)
        if not named and not request.caches:
            raise click.UsageError(NO_CACHE_RESUMED)
        return train_command(request)

    run_and_report(run, request, as_json)


NO_CACHE_RESUMED = (
    "--resume auto is added to the command that was interrupted, with its --from-cache; "
    "--resume RUN names the run's folder and needs no cache"
)
NO_CACHE = (
    "no cache to train on: make one with `svp precompute --split train` (generated scenes; "
    "your own data with --dataset), then `svp train --from-cache` takes the newest, or "
    "--from-cache PATH the one you name. `svp quickstart` does it all on generated scenes"
)


@click.command("quickstart")
@changed_recipe
@runs_folder
@device
@as_json
def quickstart_command(
    as_json: bool, seed: int | None, projector: str | None, **options: Any
) -> None:
    """Run the whole pipeline on generated scenes. Re-run the same command to resume."""
    from ...pipeline.process import this_command
    from ..options import TrainFlags, TrainRequest, resolve_fields
    from ..runs.needs import require_training

    # Told now, not after the minutes in which the caches are made.
    require_training("svp quickstart")
    flags = TrainFlags(seed=seed, projector=projector)
    request = TrainRequest(flags=flags, resume="auto", hint=this_command(), **options)
    resolve_fields(request.size, request.recipe_file, request.flags, request.overrides)
    from ..runs.quickstart import quickstart

    run_and_report(quickstart, request, as_json)


TRAINING = (train_command, quickstart_command)
