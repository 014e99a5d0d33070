"""`svp precompute`: compute a cache from images."""

import re
from dataclasses import fields
from typing import Any

import click

from ..display import quote
from ..fetch.sam_specs import SAMS
from .console import as_json, either, overrides, report, several, size_option
from .data import source_options
from .path_types import NEW_PLACE, PATH

layer_options = several(
    overrides,
    click.option(
        "--superpixels",
        metavar="NAME",
        help="Superpixel source: sam, mobile_sam, slic, masks or a plug-in.",
    ),
    click.option(
        "--masks", metavar="DIR", help="Folder of --superpixels masks: one file per image."
    ),
    click.option(
        "--sam-model",
        metavar="NAME",
        help=f"SAM model: {', '.join(SAMS)} or a plug-in.",
    ),
    click.option("--sam-weights", metavar="PATH|random[:SEED]", help="SAM checkpoint."),
    click.option(
        "--preset",
        type=click.Choice(["svp", "fma", "windows", "hierarchical"]),
        help="Preset of grid prompting.",
    ),
    click.option(
        "--points-per-side", type=click.IntRange(1, 128), help="Prompt points per side of the grid."
    ),
    click.option(
        "--mode",
        type=click.Choice(["exact", "fast"]),
        help="SAM as published, or batched and compiled.",
    ),
    click.option(
        "--dtype",
        type=click.Choice(["float32", "bfloat16", "float16"]),
        help="Dtype of SAM in fast mode.",
    ),
    click.option(
        "--max-superpixels",
        type=click.IntRange(1, 1024),
        help="Maximum number of superpixels per image.",
    ),
    click.option(
        "--cap-by",
        metavar="CACHE",
        help="Cache by whose order superpixels above the maximum are ranked. Default: the largest stay.",
    ),
    click.option(
        "--encoder",
        metavar="NAME[+NAME]",
        help="Vision encoder: tiny, dinov2-large, clip-large-336, ...; A+B stores both.",
    ),
    click.option("--encoder-weights", metavar="PATH|random[:SEED]", help="Weights of the encoder."),
    click.option(
        "--second-weights", metavar="PATH|random[:SEED]", help="Weights of the second encoder."
    ),
    click.option(
        "--features",
        type=click.Choice(["float16", "int8", "mean+int4", "mean"]),
        help="How features are stored; mean: no patches, only the mean of each superpixel.",
    ),
    click.option(
        "--store-sam-embeddings/--no-store-sam-embeddings",
        default=None,
        help="Store SAM's image embedding, which the mask decoder reads.",
    ),
    click.option(
        "--sam-stored",
        type=click.Choice(["float16", "int8"]),
        help="Stored dtype of SAM's embedding.",
    ),
)
recipe_options = several(
    size_option,
    click.option(
        "--recipe", "recipe_file", type=PATH, help="Recipe file (YAML) instead of --size."
    ),
    layer_options,
    click.option(
        "--thin",
        is_flag=True,
        default=None,
        help="Means of superpixels instead of patch features, SAM's embedding in int8.",
    ),
)
RECIPE_FLAGS = ("superpixels", "masks", "sam_model", "sam_weights", "preset", "points_per_side", "mode",
                "dtype", "max_superpixels", "cap_by", "encoder", "encoder_weights", "second_weights", "features",
                "store_sam_embeddings", "sam_stored", "thin")  # fmt: skip
run_options = several(
    click.option(
        "--executor",
        metavar="NAME",
        default="local",
        show_default=True,
        help="Where the workers run: local, ray, dask or a plug-in.",
    ),
    click.option(
        "--workers",
        metavar="N|A:B",
        help="Number of workers; 0 works in this process. A:B asks a cluster for B and ends if fewer "
        "than A are ready for a while. Default: one per GPU, else per core, also on machines that join.",
    ),
    click.option(
        "--worker-timeout",
        "worker_timeout_s",
        type=float,
        default=900.0,
        show_default=True,
        help="Seconds with too few ready workers before the run ends.",
    ),
    click.option(
        "--device", default="auto", show_default=True, help="Device: auto, cpu, cuda or cuda:N."
    ),
    click.option(
        "--threads",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="CPU threads per worker.",
    ),
    click.option("--ray-address", help="Address of a running Ray cluster."),
    click.option(
        "--gpus-per-worker", type=float, help="GPUs of one Ray worker; 0.5: two workers per GPU."
    ),
    click.option("--require-gpu", metavar="NAME", help="Kind of GPU by Ray's name, such as A100."),
    click.option("--ship", is_flag=True, help="Send this svp to the nodes of the Ray cluster."),
    click.option("--dask-scheduler", help="Address of a running Dask scheduler."),
    click.option(
        "--join",
        is_flag=True,
        help="Share the work with all processes that run the same command with --join.",
    ),
    click.option("--shards", metavar="A:B", help="Compute only shards A to B-1."),
    click.option("--limit", type=click.IntRange(min=1), help="Use only the first N images."),
    click.option(
        "--resume/--no-resume", default=True, show_default=True, help="Continue an existing cache."
    ),
    click.option("--retry-quarantined", is_flag=True, help="Try quarantined images again."),
    click.option(
        "--max-failures",
        type=click.IntRange(min=0),
        help="Bad images or records to accept; more images give exit code 1, more records stop.",
    ),
    click.option(
        "--max-tries",
        type=click.IntRange(min=1),
        default=3,
        show_default=True,
        help="Attempts per shard.",
    ),
    click.option(
        "--shard-timeout",
        "shard_timeout_s",
        type=float,
        help="Seconds before a hung worker is killed. Default: none; 6 hours with --join.",
    ),
)


@click.command("precompute")
@click.option("--split", help="Split: train, val, testA, ...; a plain folder has none.")
@either("dataset", str, required=False, help="Path or REFER names. Default: generated scenes.")
@click.option("--out", type=NEW_PLACE,
              help="Cache: a folder or s3://bucket/cache. Default: caches/<dataset>-<split>.")  # fmt: skip
@click.option(
    "--exclude-eval-images",
    is_flag=True,
    help="Leave out train images that are in any val or test split.",
)
@source_options
@recipe_options
@click.option("--for", "purpose", type=click.Choice(["train", "look"]),
              help="Store the arrays that training needs, or only those that viewing needs. "
              "Default: train if the data has expressions.")  # fmt: skip
@click.option("--projector", default="svp", show_default=True,
              help="Projector to be trained; its inputs are stored.")  # fmt: skip
@run_options
@click.option(
    "--dry-run",
    "--plan",
    "dry_run",
    is_flag=True,
    help="Print images, shards, GB, hours and memory, and stop.",
)
@click.option("--price", type=(click.Choice(["3090", "4090", "a100", "h100", "h200", "core"]), int), metavar="DEVICE N",
              help="Dry run for N images on another machine, without data or weights.")  # fmt: skip
@click.option("--quiet", is_flag=True, help="Print no progress.")
@as_json
def precompute_command(
    dry_run: bool, price: tuple[str, int] | None, as_json: bool, **options: Any
) -> None:
    """Compute a cache of superpixels and features. Re-run the same command to resume."""
    from ..precompute import launch

    request = _request(options)
    if price:
        return report(launch.price(request, *price), as_json)
    opened = launch.open_request(request)
    for notice in launch.notices(request, opened):
        click.echo(notice, err=True)
    if dry_run:
        return report(launch.dry_run(request, opened), as_json)
    report(launch.launch(request, opened), as_json)


def _request(options: dict[str, Any]) -> Any:
    """The options of `precompute` as the records the pipeline takes."""
    from ..precompute.launch import Request
    from ..precompute.options import Flags

    flags = Flags(**{name: options.pop(name) for name in RECIPE_FLAGS})
    return Request(flags=flags, run=run_of(options), **options)


def run_of(options: dict[str, Any]) -> Any:
    """`RunOptions` of the options of `run_options`, which are taken out of `options`."""
    from ..precompute.run import RunOptions
    from ..process import pick_device, this_command

    run = {f.name: options.pop(f.name) for f in fields(RunOptions) if f.name in options}
    run["device"], run["shards"] = pick_device(run["device"]), _shards(run["shards"])
    run["workers"], run["least_workers"] = _workers(run["workers"])
    return RunOptions(**run, hint=this_command())


_WORKERS = re.compile(r"(?:(?P<least>[0-9]{1,6}):)?(?P<most>[0-9]{1,6})")
_SHARDS = re.compile(r"([0-9]{1,12}):([0-9]{1,12})")


def _workers(text: str | None) -> tuple[int | None, int]:
    """Number of workers, None if not given, and the least number to work with."""
    if text is None:
        return None, 1
    found = _WORKERS.fullmatch(text)
    if not found or (found["least"] and not int(found["most"])):
        raise click.BadParameter(f"{quote(text)}: want a number, or A:B", param_hint="--workers")
    return int(found["most"]), max(1, int(found["least"] or 1))


def _shards(text: str | None) -> range | None:
    if text is None:
        return None
    found = _SHARDS.fullmatch(text)
    if not found or int(found[1]) >= int(found[2]):
        raise click.BadParameter(f"{quote(text)}: want A:B with A < B", param_hint="--shards")
    return range(int(found[1]), int(found[2]))
