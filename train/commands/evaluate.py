"""`svp eval`, `predict`, `demo`, `compare` and `export`: what is done with a trained model."""

from pathlib import Path
from typing import Any

import click

from ...pipeline.commands.console import as_json, either, report
from ...pipeline.commands.data import max_failures, source_options
from ...pipeline.commands.path_types import NEW_FILE, NEW_FOLDER, PATH, PHOTO_ROOT, PLACE
from .shared import (
    DATA,
    WEIGHTS,
    allow_tiny,
    alone,
    asked_model,
    budget,
    caches,
    checkpoint,
    dataset,
    decoder,
    device,
    encoders,
    lm_weights,
    named_caches,
    published,
    reject_above,
    require_caches,
    run_and_report,
    runs,
    take,
    take_tier,
    tier,
    weights,
)


def require_model(*asked: Any) -> None:
    """Refuse a model that is not there before PyTorch is imported, which takes seconds."""
    from ..evaluation.named_model import require_model

    require_model(*asked)


@click.command("eval")
@caches
@tier
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
@click.option("--set", "overrides", multiple=True, metavar="A.B=C",
              help="Set an option of the projector that changes no weight; repeatable.")  # fmt: skip
@budget
@decoder
@lm_weights
@reject_above
@device
@click.option(
    "--out",
    type=NEW_FILE,
    help="Result file; several splits append -SPLIT. Default: in the run folder.",
)
@click.option(
    "--from-results",
    type=PLACE,
    metavar="FILE",
    help="Recompute all metrics from this result file.",
)
@click.option("--page", type=NEW_FOLDER, help="Folder of the page, with --from-results.")
@as_json
def eval_command(from_results: Any, page: Path | None, as_json: bool, **options: Any) -> None:
    """Evaluate a model on one or more splits: gIoU, cIoU and P@k, beside the paper's."""
    if from_results is not None:
        from ..runs.evaluate import report_command

        return report(report_command(from_results, page, options["images"]), as_json)
    caches, rows = named_caches(options.pop("caches")), take_tier(options)
    asked = [options[name] for name in ("checkpoint", "runs", "published")]
    if alone():
        require_model(*asked)
    require_caches(caches, (options["split"] or "val").partition(",")[0])
    from ..options import DataRequest, TrainFlags
    from ..runs.eval_caches import default_split
    from ..runs.evaluate import EvalRequest
    from ..runs.evaluate import eval_command as run

    if options["split"] is None:
        options["split"] = default_split(caches, *asked) if options["dataset"] is None else "val"
    request = EvalRequest(
        data=DataRequest(**take(options, DATA)),
        flags=TrainFlags(**take(options, WEIGHTS)),
        caches=caches,
        tier=rows,
        **options,
    )
    run_and_report(run, request, as_json)


@click.command("predict")
@click.argument("images", type=PATH)
@click.argument("expressions", nargs=-1)
@asked_model
@click.option(
    "--generate", is_flag=True, help="Generate the answer instead of teacher-forcing [SEG]."
)
@click.option("--out", type=NEW_FOLDER, default=Path("predictions"), show_default=True,
              help="Folder of the outputs.")  # fmt: skip
@as_json
def predict_command(as_json: bool, **options: Any) -> None:
    """Segment the object of each expression in an image, in each image of a folder, or by the lines of
    a JSONL file (`image`, `expression`): PNG masks, overlays and JSON.
    """
    from ..runs.questions import require_photographs

    require_photographs(options["images"], options["expressions"])
    require_model(options["checkpoint"], options["runs"], options["published"])
    from ..options import TrainFlags
    from ..runs.predict import PredictRequest
    from ..runs.predict import predict_command as run

    flags = TrainFlags(**take(options, WEIGHTS))
    report(run(PredictRequest(flags=flags, **options)), as_json)


@click.command("demo")
@asked_model
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=7860,
    show_default=True,
    help="Port on this machine.",
)
@click.option("--open", "open_browser", is_flag=True, help="Open the page in the browser.")
def demo_command(**options: Any) -> None:
    """Ask a model about photographs in the browser, on this machine alone (extra `demo`)."""
    from ..runs.needs import HOST, require_demo

    require_model(options["checkpoint"], options["runs"], options["published"])
    require_demo(HOST, options["port"])
    from ..options import TrainFlags
    from ..runs.demo import DemoRequest
    from ..runs.demo import demo_command as run

    flags = TrainFlags(**take(options, WEIGHTS))
    run(DemoRequest(flags=flags, **options))


@click.command("export")
@either("out", NEW_FOLDER)
@checkpoint
@runs
@click.option(
    "--cache",
    "--from-cache",
    "cache",
    type=PLACE,
    help="Cache of the model, for its preprocessing.",
)
@weights
@click.option("--adapter", type=click.Choice(["merged", "separate"]), default="merged",
              show_default=True, help="Merge LoRA into the weights, or save it separately.")  # fmt: skip
@click.option(
    "--results", type=PLACE, multiple=True, help="Result file for the model card; repeatable."
)
@click.option("--license", "--licence", "licence", default="other", show_default=True,
              help="License in the model card.")  # fmt: skip
@click.option(
    "--space",
    is_flag=True,
    help="Write a Space of the Hugging Face hub: the model with its demo page.",
)
@click.option(
    "--push",
    metavar="OWNER/NAME",
    help="Also send the folder to this private repository of the Hugging Face hub.",
)
@as_json
def export_command(cache: Path | None, as_json: bool, **options: Any) -> None:
    """Save a checkpoint as a self-contained folder with a model card."""
    require_model(options["checkpoint"], options["runs"])
    from ..options import TrainFlags
    from ..runs.export import ExportRequest
    from ..runs.export import export_command as run

    flags = TrainFlags(**take(options, WEIGHTS))
    report(run(ExportRequest(flags=flags, cache=cache, **options)), as_json)


@click.command("compare")
@click.argument("first", type=PATH)
@click.argument("second", type=PATH)
@click.option("--split", help="Only results of this split. Default: all that both have.")
@click.option(
    "--page", type=NEW_FOLDER, help="Also write a page with both answers side by side here."
)
@click.option("--images", type=PHOTO_ROOT, metavar="PATH|s3://...",
              help="Folder or address of the page's images. Default: as the runs recorded them.")  # fmt: skip
@as_json
def compare_command(as_json: bool, **options: Any) -> None:
    """Compare two evaluated runs, or two result files: differences with intervals, and sentences."""
    from ..runs.compare import compare_command as run

    report(run(**options), as_json)


TRAINED = (eval_command, compare_command, predict_command, demo_command, export_command)
