"""`svp precompute`: compute a cache from images."""

from typing import Any

import click

from .console import PATH, as_json, either, report, several, size_option
from .data import source_options

recipe_options = several(
    size_option,
    click.option("--recipe", "recipe_file", type=PATH, help="YAML recipe instead of --size."),
    click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Set a recipe field."),
    click.option(
        "--superpixels", metavar="NAME", help="sam, mobile_sam, slic, masks, a plug-in's."
    ),
    click.option("--masks", metavar="DIR", help="For --superpixels masks: a file per photograph."),
    click.option("--sam-model", type=click.Choice(["tiny", "vit_b", "vit_l", "vit_h", "vit_t"])),
    click.option("--sam-weights", metavar="PATH|random[:SEED]"),
    click.option(
        "--preset", type=click.Choice(["svp", "fma", "windows"]), help="Grid prompting preset."
    ),
    click.option("--points-per-side", type=click.IntRange(1, 128)),
    click.option("--mode", type=click.Choice(["exact", "fast"])),
    click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"])),
    click.option("--max-superpixels", type=click.IntRange(1, 1024)),
    click.option(
        "--encoder",
        metavar="NAME[+NAME]",
        help="tiny, dinov2-large, clip-large-336, ...; a second one's last layer beside.",
    ),
    click.option("--encoder-weights", metavar="PATH|random[:SEED]"),
    click.option("--second-weights", metavar="PATH|random[:SEED]", help="Of the second encoder."),
    click.option("--features", type=click.Choice(["float16", "int8"]), help="As stored."),
    click.option("--store-sam-embeddings/--no-store-sam-embeddings", default=None),
)
RECIPE_FLAGS = ("superpixels", "masks", "sam_model", "sam_weights", "preset", "points_per_side", "mode",
                "dtype", "max_superpixels", "encoder", "encoder_weights", "second_weights", "features",
                "store_sam_embeddings")  # fmt: skip
run_options = several(
    click.option("--executor", type=click.Choice(["local", "ray", "dask"]), default="local"),
    click.option("--workers", type=click.IntRange(min=0), help="Default: GPUs, else cores."),
    click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N."),
    click.option("--threads", type=click.IntRange(min=1), default=1, help="Of one worker."),
    click.option("--ray-address", help="Join this Ray cluster."),
    click.option("--dask-scheduler", help="Join this Dask scheduler."),
    click.option("--shards", metavar="A:B", help="Only these shards, for a static split."),
    click.option("--limit", type=click.IntRange(min=1), help="Only the first N images."),
    click.option("--resume/--no-resume", default=True, help="Continue a cache that is there."),
    click.option("--retry-quarantined", is_flag=True, help="Try bad images again."),
    click.option(
        "--max-failures",
        type=click.IntRange(min=0),
        help="More bad images: exit 1; bad records: stop.",
    ),
    click.option("--max-tries", type=click.IntRange(min=1), default=3),
    click.option("--shard-timeout", type=float, help="Seconds before a hung worker is ended."),
)
RUN_FLAGS = ("executor", "workers", "device", "threads", "ray_address", "dask_scheduler", "shards",
             "limit", "resume", "retry_quarantined", "max_failures", "max_tries",
             "shard_timeout")  # fmt: skip


@click.command("precompute")
@click.option("--split", help="train, val, testA, ...; a plain folder has none.")
@either(
    "dataset", str, required=False, help="Path or REFER names; without it scenes are generated."
)
@click.option("--out", type=PATH, help="Cache folder; default caches/<dataset>-<split>.")
@click.option("--exclude-eval-images", is_flag=True, help="Drop train images of any val or test.")
@source_options
@recipe_options
@click.option("--for", "purpose", type=click.Choice(["train", "look"]),
              help="Store what training reads, or only what looking does. Default: train where "
              "the data has expressions.")  # fmt: skip
@click.option("--projector", default="svp", show_default=True,
              help="The projector to be trained: its inputs are stored.")  # fmt: skip
@run_options
@click.option(
    "--dry-run",
    "--plan",
    "dry_run",
    is_flag=True,
    help="Print images, shards, GB, hours, memory; stop.",
)
@click.option("--price", type=(click.Choice(["3090", "4090", "a100", "h100", "h200", "core"]), int), metavar="DEVICE N",
              help="Dry run for N images on another machine; needs no data or weights.")  # fmt: skip
@click.option("--quiet", is_flag=True, help="No progress.")
@as_json
def precompute_command(
    dry_run: bool, price: tuple[str, int] | None, as_json: bool, **options: Any
) -> None:
    """Photographs in, a cache of superpixels and features out. Give it again to go on."""
    from ..precompute import launch

    request = _request(options)
    if price:
        return report(launch.price(request, *price), as_json)
    opened = launch.open_request(request)
    for notice in launch.notices(request, opened):
        click.echo(notice, err=True)
    if dry_run:
        return report(launch.dry_run(request, opened, _say), as_json)
    report(launch.launch(request, opened), as_json)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _request(options: dict[str, Any]) -> Any:
    """The options of `precompute` as the records the pipeline takes."""
    from ..executors import ExecutorOptions
    from ..precompute.launch import Request
    from ..precompute.options import Flags
    from ..precompute.run import RunOptions
    from ..process import pick_device, this_command

    flags = Flags(**{name: options.pop(name) for name in RECIPE_FLAGS})
    run = {name: options.pop(name) for name in RUN_FLAGS}
    run["device"] = pick_device(run["device"])
    places = ("workers", "device", "threads", "ray_address", "dask_scheduler")
    how = ExecutorOptions(**{name: run.pop(name) for name in places})
    shards, timeout = _shards(run.pop("shards")), run.pop("shard_timeout")
    settings = RunOptions(
        executor_options=how, shards=shards, shard_timeout_s=timeout, hint=this_command(), **run
    )
    return Request(flags=flags, run=settings, **options)


def _shards(text: str | None) -> range | None:
    if text is None:
        return None
    first, colon, last = text.partition(":")
    if not (colon and first.isdigit() and last.isdigit() and int(first) < int(last)):
        raise click.BadParameter(f"{text!r}: want A:B with A < B", param_hint="--shards")
    return range(int(first), int(last))
