"""`svp train`, `eval`, `predict`, `export` and `quickstart`; each calls one function."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from ...pipeline.commands.console import (
    NEW_FILE,
    NEW_FOLDER,
    PATH,
    as_json,
    either,
    report,
    several,
    size_option,
)
from ...pipeline.commands.data import max_failures, source_options

T = TypeVar("T")
NEWEST = "(newest)"  # what --from-cache is without a path
DATA = ("dataset", "images", "root", "split_by", "allow_google", "allow_counts", "allow_empty",
        "max_failures")  # fmt: skip
WEIGHTS = ("lm", "init", "sam_decoder")
FLAGS = ("seed", "projector", "optimizer", "micro_batch", "steps", *WEIGHTS)

caches = click.option(
    "--from-cache", "caches", type=PATH, multiple=True, is_flag=False, flag_value=NEWEST,
    help="Cache to read; repeatable. Without a path: the newest in caches/.",
)  # fmt: skip
dataset = click.option("--dataset", help="Path or REFER names. Default: the data of the cache.")
device = click.option(
    "--device", default="auto", show_default=True, help="Device: auto, cpu, cuda or cuda:N."
)
allow_tiny = click.option(
    "--size", type=click.Choice(["tiny", "small", "paper"]), envvar="SVP_SIZE", show_envvar=True,
    help="With tiny: allow the tiny models on other than generated data. Otherwise no effect.",
)  # fmt: skip
runs = click.option("--runs", type=PATH, default=Path("runs"), show_default=True,
                    help="Folder of the runs.")  # fmt: skip
new_runs = click.option("--runs", type=NEW_FOLDER, default=Path("runs"), show_default=True,
                        help="Folder of the runs.")  # fmt: skip
checkpoint = click.option(
    "--checkpoint",
    "--model",
    "checkpoint",
    type=PATH,
    help="Run folder, checkpoint or export. Default: the newest run.",
)
published = several(
    click.option(
        "--published",
        metavar="FOLDER|hub:OWNER/NAME",
        help="Published GLaMM or LISA model, used as it is.",
    ),
    click.option(
        "--own-sam", is_flag=True, help="With --published: use its SAM image encoder, too."
    ),
)
weights = several(
    click.option("--lm", help="Language model: folder, hub:OWNER/NAME or random:SEED."),
    click.option(
        "--init", help="GLaMM or LISA checkpoint to start from: folder, hub:OWNER/NAME or none."
    ),
    click.option("--sam-decoder", help="SAM weights that initialise the mask decoder."),
)
encoders = several(
    click.option(
        "--live",
        is_flag=True,
        help="Compute features on the fly instead of reading them from the cache.",
    ),
    click.option("--sam-weights", type=PATH, help="SAM checkpoint for --live."),
    click.option("--encoder-weights", type=PATH, help="Encoder weights for --live."),
)


@click.command("train")
@caches
@dataset
@source_options
@max_failures
@size_option
@click.option("--recipe", "recipe_file", type=PATH, help="Recipe file (YAML) instead of --size.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="A.B=C",
    help="Set a field of the recipe; repeatable.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Random seed of the run.")
@click.option("--projector", help="Projector with its default options: svp, mlp, qformer, ...")
@click.option(
    "--optimizer",
    type=click.Choice(["adamw", "adamw8bit", "offload"]),
    help="Optimizer; offload keeps AdamW's states in host memory.",
)
@click.option(
    "--micro-batch", type=click.IntRange(min=1), help="Images per process and forward pass."
)
@click.option("--steps", type=click.IntRange(min=1), help="Total steps; both stages shrink.")
@click.option("--limit", type=click.IntRange(min=1), help="Use only the first N images.")
@weights
@encoders
@click.option(
    "--validate", type=PATH, metavar="CACHE", help="Validate on this cache during training."
)
@click.option("--validate-dataset", help="Data of the validation cache, if it was moved.")
@click.option("--partial", is_flag=True, help="Skip images that are in no cache.")
@new_runs
@click.option(
    "--resume",
    metavar="auto|PATH",
    help="Resume a run or checkpoint; auto: the newest that matches.",
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
    from ..options import TrainFlags
    from ..runs.inputs import DataRequest, TrainRequest

    named = bool(options["caches"]) or options["dataset"] is not None
    request = TrainRequest(
        data=DataRequest(**_take(options, DATA)),
        flags=TrainFlags(**_take(options, FLAGS)),
        caches=_named(options.pop("caches")),
        hint=this_command(),
        **options,
    )
    if dry_run:
        from ..runs.dry_run import dry_run_command
        from ..runs.newest_cache import newest_cache

        if named and not request.caches:
            newest = newest_cache("train", request.data.dataset)
            request = replace(request, caches=(newest,))
        return report(dry_run_command(request), as_json)
    from ..options import resolve_plain
    from ..runs.train import train_command as run
    from ..trainer.run_data import resumed

    resolve_plain(request.size, request.recipe_file, request.flags, request.overrides)
    request = resumed(request)
    if not named and not request.caches and request.resume:
        raise click.UsageError(
            "--resume auto is added to the command that was interrupted, with its --from-cache; "
            "--resume RUN names the run's folder and needs no cache"
        )
    if not named and not request.caches:
        raise click.UsageError(
            "no cache to train on: make one with `svp precompute --split train` (generated scenes; "
            "your own data with --dataset), then `svp train --from-cache` takes the newest, or "
            "--from-cache PATH the one you name. `svp quickstart` does it all on generated scenes"
        )
    _run(run, request, as_json)


@click.command("quickstart")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="A.B=C",
    help="Set a field of the recipe; repeatable.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Random seed of the run.")
@click.option("--projector", help="Projector with its default options: svp, mlp, qformer, ...")
@new_runs
@device
@as_json
def quickstart_command(
    as_json: bool, seed: int | None, projector: str | None, **options: Any
) -> None:
    """Run the whole pipeline on generated scenes. Re-run the same command to resume."""
    from ...pipeline.process import this_command
    from ..options import TrainFlags, TrainRequest
    from ..runs.quickstart import quickstart

    flags = TrainFlags(seed=seed, projector=projector)
    request = TrainRequest(flags=flags, resume="auto", hint=this_command(), **options)
    _run(quickstart, request, as_json)


@click.command("eval")
@caches
@dataset
@source_options
@max_failures
@allow_tiny
@click.option(
    "--split", help="Splits, such as val,testA,testB. Default: that of the cache or run, or val."
)
@checkpoint
@published
@runs
@weights
@click.option("--protocol", type=click.Choice(["full", "glamm"]), default="full", show_default=True,
              help="All expressions, or GLaMM's sampling.")  # fmt: skip
@click.option(
    "--generate", is_flag=True, help="Generate the answer instead of teacher-forcing [SEG]."
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of protocol glamm.",
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Repetitions of protocol glamm.",
)
@click.option("--shuffle-orders", type=click.IntRange(min=0), default=0, metavar="K",
              help="Also evaluate K random superpixel orders and report the spread.")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), help="Use only the first N images.")
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Dialogues per forward pass.",
)
@click.option(
    "--bounds/--no-bounds", default=True, show_default=True, help="Upper bounds of the superpixels."
)
@encoders
@device
@click.option(
    "--out",
    type=NEW_FILE,
    help="Result file; several splits append -SPLIT. Default: in the run folder.",
)
@click.option(
    "--from-results", type=PATH, metavar="FILE", help="Recompute all metrics from this result file."
)
@click.option("--page", type=NEW_FOLDER, help="Folder of the page, with --from-results.")
@as_json
def eval_command(
    from_results: Path | None, page: Path | None, as_json: bool, **options: Any
) -> None:
    """Evaluate a model on one or more splits: gIoU, cIoU and P@k, beside the paper's."""
    from ..options import TrainFlags
    from ..runs.evaluate import EvalRequest, default_split, report_command
    from ..runs.evaluate import eval_command as run
    from ..runs.inputs import DataRequest

    if from_results is not None:
        return report(report_command(from_results, page, options["images"]), as_json)
    caches = _named(options.pop("caches"))
    if options["split"] is None:
        asked = (options[name] for name in ("checkpoint", "runs", "published"))
        options["split"] = default_split(caches, *asked) if options["dataset"] is None else "val"
    request = EvalRequest(
        data=DataRequest(**_take(options, DATA)),
        flags=TrainFlags(**_take(options, WEIGHTS)),
        caches=caches,
        **options,
    )
    _run(run, request, as_json)


@click.command("predict")
@click.argument("image", type=PATH)
@click.argument("expressions", nargs=-1, required=True)
@click.option(
    "--cache", "--from-cache", "cache", type=PATH, help="Cache whose recipe is used for the image."
)
@size_option
@checkpoint
@published
@runs
@weights
@click.option("--sam-weights", type=PATH, help="SAM checkpoint.")
@click.option("--encoder-weights", type=PATH, help="Encoder weights.")
@click.option(
    "--generate", is_flag=True, help="Generate the answer instead of teacher-forcing [SEG]."
)
@device
@click.option("--out", type=NEW_FOLDER, default=Path("predictions"), show_default=True,
              help="Folder of the outputs.")  # fmt: skip
@as_json
def predict_command(as_json: bool, **options: Any) -> None:
    """Segment the object of each expression in an image: PNG mask, overlay and JSON."""
    from ..options import TrainFlags
    from ..runs.predict import PredictRequest
    from ..runs.predict import predict_command as run

    flags = TrainFlags(**_take(options, WEIGHTS))
    report(run(PredictRequest(flags=flags, **options)), as_json)


@click.command("export")
@either("out", NEW_FOLDER)
@checkpoint
@runs
@click.option(
    "--cache", "--from-cache", "cache", type=PATH, help="Cache of the model, for its preprocessing."
)
@weights
@click.option("--adapter", type=click.Choice(["merged", "separate"]), default="merged",
              show_default=True, help="Merge LoRA into the weights, or save it separately.")  # fmt: skip
@click.option(
    "--results", type=PATH, multiple=True, help="Result file for the model card; repeatable."
)
@click.option("--license", "--licence", "licence", default="other", show_default=True,
              help="License in the model card.")  # fmt: skip
@as_json
def export_command(cache: Path | None, as_json: bool, **options: Any) -> None:
    """Save a checkpoint as a self-contained folder with a model card."""
    from ..options import TrainFlags
    from ..runs.export import ExportRequest
    from ..runs.export import export_command as run

    flags = TrainFlags(**_take(options, WEIGHTS))
    report(run(ExportRequest(flags=flags, cache=cache, **options)), as_json)


def _run(command: Callable[[T], Any], request: T, as_json: bool) -> None:
    """Report on a command that may be one of several processes'; its process group ends with it."""
    from ..distributed import process_group

    with process_group():
        result = command(request)
    report(result, as_json)


def _take(options: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: options.pop(name) for name in names}


def _named(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """`--from-cache` without a path names none."""
    return tuple(path for path in paths if path != Path(NEWEST))


COMMANDS = (train_command, quickstart_command, eval_command, predict_command, export_command)
