"""The `svp` command. Each command is a few lines that call one function; heavy imports wait inside.

Exit codes: 0 done, 1 failed, 2 usage, 3 data or weights missing, 130 interrupted and resumable.
"""

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from . import __version__

F = TypeVar("F", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)
as_json = click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")


class Root(click.Group):
    """Turns our own errors into one line on stderr and the exit code of their class."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Raises SystemExit with the code of the error's class."""
        from .pipeline.errors import SvpError, describe

        try:
            return super().invoke(ctx)
        except SvpError as error:
            for line in getattr(error, "problems", None) or [describe(error)]:
                click.echo(f"svp: {line}", err=True)
            raise SystemExit(error.exit_code) from None


def several(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Options that several commands share, as one decorator."""

    def apply(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return apply


def report(result: Any, as_json: bool) -> None:
    """Print a report: `lines()` for people, `to_json()` for programs; exit with its `exit_code`."""
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=1, sort_keys=True))
    else:
        click.echo("\n".join(result.lines()))
    if code := getattr(result, "exit_code", 0):
        raise SystemExit(code)


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="svp")
def main() -> None:
    """Semantic superpixels as visual tokens: cut images once, then train on about 40 tokens."""


# ---- data ------------------------------------------------------------------------------------

source_options = several(
    click.option("--images", type=PATH, help="Folder of the photographs, if not found around it."),
    click.option("--root", type=PATH, help="Folder the names of REFER sets are looked for in."),
    click.option("--split-by", help="REFER split file: unc, google or umd."),
    click.option(
        "--allow-google", is_flag=True, help="Accept google splits (objects, not images)."
    ),
    click.option("--allow-counts", is_flag=True, help="Accept counts other than the published."),
)


@main.group()
def data() -> None:
    """Look at, convert and generate datasets."""


@data.command("check")
@click.argument("path")
@source_options
@click.option("--split", help="COCO: which instances file.")
@click.option("--allow-empty", is_flag=True, help="Accept empty masks in val and test.")
@click.option("--headers-only", is_flag=True, help="Do not decode the images.")
@as_json
def check_command(path: str, headers_only: bool, as_json: bool, **options: Any) -> None:
    """Counts, problems by record and overlaps of a dataset; exit code 1 if it is not usable."""
    from .pipeline.sources import check

    report(check(path, decode=not headers_only, **options), as_json)


@data.command("convert")
@click.argument("path")
@click.option("--out", type=PATH, required=True, help="New folder for the tables.")
@source_options
@click.option("--split", help="COCO: which instances file.")
@as_json
def convert_command(path: str, out: Path, as_json: bool, **options: Any) -> None:
    """Write the normalised tables (images, sentences, masks); they are a dataset again."""
    from .pipeline.sources import convert

    report(convert(path, out, **options), as_json)


@data.command("export")
@click.argument("path")
@click.option("--out", type=PATH, required=True, help="JSONL file to write.")
@source_options
@click.option("--split", help="Only this split.")
def export_command(path: str, out: Path, **options: Any) -> None:
    """Write a dataset as JSONL: image, expression, mask as RLE."""
    from .pipeline.sources import export_jsonl, open_source

    click.echo(f"wrote {export_jsonl(open_source(path, **options), out)} lines to {out}")


@data.command("synth")
@click.argument("out", type=PATH)
@click.option("--images", type=click.IntRange(min=1), default=200, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def synth_command(out: Path, images: int, seed: int) -> None:
    """Write generated scenes as COCO, REFER and JSONL; a finished folder is left as it is."""
    from .pipeline.scenes import write_scenes

    click.echo(f"scenes: {write_scenes(out, images=images, seed=seed)}")


# ---- precompute ------------------------------------------------------------------------------

recipe_options = several(
    click.option("--size", type=click.Choice(["tiny", "small", "paper"]), default="tiny"),
    click.option("--recipe", "recipe_file", type=PATH, help="YAML recipe instead of --size."),
    click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Set a recipe field."),
    click.option("--superpixels", type=click.Choice(["sam", "mobile_sam", "slic"])),
    click.option("--sam-model", type=click.Choice(["tiny", "vit_b", "vit_l", "vit_h", "vit_t"])),
    click.option("--sam-weights", metavar="PATH|random[:SEED]"),
    click.option("--preset", type=click.Choice(["svp", "fma"]), help="Grid prompting preset."),
    click.option("--points-per-side", type=click.IntRange(1, 128)),
    click.option("--mode", type=click.Choice(["exact", "fast"])),
    click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"])),
    click.option("--max-superpixels", type=click.IntRange(1, 1024)),
    click.option("--encoder", metavar="NAME", help="tiny, dinov2-large, clip-large-336, ..."),
    click.option("--encoder-weights", metavar="PATH|random[:SEED]"),
    click.option("--features", type=click.Choice(["float16", "int8"]), help="As stored."),
    click.option("--store-sam-embeddings/--no-store-sam-embeddings", default=None),
)
RECIPE_FLAGS = ("superpixels", "sam_model", "sam_weights", "preset", "points_per_side", "mode",
                "dtype", "max_superpixels", "encoder", "encoder_weights", "features",
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
    click.option("--max-failures", type=click.IntRange(min=0), help="More bad images: exit 1."),
    click.option("--max-tries", type=click.IntRange(min=1), default=3),
    click.option("--shard-timeout", type=float, help="Seconds before a hung worker is ended."),
)
RUN_FLAGS = ("executor", "workers", "device", "threads", "ray_address", "dask_scheduler", "shards",
             "limit", "resume", "retry_quarantined", "max_failures", "max_tries",
             "shard_timeout")  # fmt: skip


@main.command("precompute")
@click.option("--split", help="train, val, testA, ...; a plain folder has none.")
@click.option("--dataset", help="Path or REFER names; without it scenes are generated.")
@click.option("--out", type=PATH, help="Cache folder; default caches/<dataset>-<split>.")
@click.option("--exclude-eval-images", is_flag=True, help="Drop train images of any val or test.")
@source_options
@recipe_options
@run_options
@click.option("--dry-run", is_flag=True, help="Print images, shards, GB, hours, memory; stop.")
@click.option("--price", type=(click.Choice(["a100", "h100", "core"]), int), metavar="DEVICE N",
              help="Dry run for N images on another machine; needs no data or weights.")  # fmt: skip
@click.option("--quiet", is_flag=True, help="No progress.")
@as_json
def precompute_command(
    dry_run: bool, price: tuple[str, int] | None, as_json: bool, **options: Any
) -> None:
    """Photographs in, a cache of superpixels and features out. Give it again to go on."""
    from .pipeline.run import launch

    request = _request(options)
    if price:
        return report(launch.price(request, *price), as_json)
    opened = launch.open_request(request)
    for notice in opened.source.notices:
        click.echo(notice, err=True)
    run = launch.dry_run if dry_run else launch.launch
    report(run(request, opened), as_json)


def _request(options: dict[str, Any]) -> Any:
    """The options of `precompute` as the records the pipeline takes."""
    from .pipeline.executors import ExecutorOptions
    from .pipeline.run.launch import Request, pick_device
    from .pipeline.run.precompute import RunOptions
    from .pipeline.run.settings import Flags

    flags = Flags(**{name: options.pop(name) for name in RECIPE_FLAGS})
    run = {name: options.pop(name) for name in RUN_FLAGS}
    run["device"] = pick_device(run["device"])
    places = ("workers", "device", "threads", "ray_address", "dask_scheduler")
    how = ExecutorOptions(**{name: run.pop(name) for name in places})
    shards, timeout = _shards(run.pop("shards")), run.pop("shard_timeout")
    hint = shlex.join(["svp", *sys.argv[1:]])
    settings = RunOptions(
        executor_options=how, shards=shards, shard_timeout_s=timeout, hint=hint, **run
    )
    return Request(flags=flags, run=settings, **options)


def _shards(text: str | None) -> range | None:
    if text is None:
        return None
    first, colon, last = text.partition(":")
    if not (colon and first.isdigit() and last.isdigit() and int(first) < int(last)):
        raise click.BadParameter(f"{text!r}: want A:B with A < B", param_hint="--shards")
    return range(int(first), int(last))


# ---- cache -----------------------------------------------------------------------------------


@main.group()
def cache() -> None:
    """Look at, check and repair caches."""


@cache.command("info")
@click.argument("path", type=PATH)
@as_json
def info_command(path: Path, as_json: bool) -> None:
    """Identity, recipe, arrays, what is committed and what is quarantined."""
    from .pipeline.store.info import info

    report(info(path), as_json)


@cache.command("verify")
@click.argument("path", type=PATH)
@click.option("--quick", is_flag=True, help="Sizes and records only, not every byte.")
@as_json
def verify_command(path: Path, quick: bool, as_json: bool) -> None:
    """Check every byte; lists damaged files and what to do; exit code 1 if there are any."""
    from .pipeline.store.verify import verify

    report(verify(path, full=not quick), as_json)


@cache.command("repair")
@click.argument("path", type=PATH)
def repair_command(path: Path) -> None:
    """Take damaged shards out, so that the same `svp precompute` makes only those again."""
    from .pipeline.store.verify import repair

    shards = repair(path)
    click.echo(f"{len(shards)} shards taken out {shards or ''}: run the same svp precompute again")


@cache.command("stats")
@click.argument("path", type=PATH)
@click.option("--sample", type=click.IntRange(min=1), default=512, help="Images to look into.")
@as_json
def stats_command(path: Path, sample: int, as_json: bool) -> None:
    """Tokens per image, coverage, overlap, levels, survivors of each step, bytes."""
    from .pipeline.store.stats import stats

    report(stats(path, sample), as_json)


@cache.command("browse")
@click.argument("path", type=PATH)
@click.option("--out", type=PATH, help="Folder of the page; default runs/pages/<cache>.")
@click.option("--images", type=PATH, help="Folder of the photographs, if they were moved.")
@click.option("--limit", type=click.IntRange(1, 500), default=24, help="Images to show.")
@click.option("--id", "ids", type=int, multiple=True, help="Show these image ids.")
def browse_command(
    path: Path, out: Path | None, images: Path | None, limit: int, ids: Sequence[int]
) -> None:
    """Write a static page that shows superpixels, levels, gaps, overlaps and counts."""
    from .pipeline.browse.page import browse
    from .pipeline.run.launch import image_root_of

    root = images or image_root_of(path)
    out = out or Path("runs/pages") / path.resolve().name
    page = browse(path, out, images_root=root, limit=limit, ids=list(ids) or None)
    click.echo(f"page: {page.resolve().as_uri()}")


# ---- machine, files, measurements -------------------------------------------------------------


@main.command("doctor")
@recipe_options
@click.option("--cache", "cache_path", type=PATH, help="Also look at this cache.")
@as_json
def doctor_command(cache_path: Path | None, as_json: bool, **options: Any) -> None:
    """Versions, devices, disk and memory, and which weights a recipe needs and where they are."""
    from .pipeline.run.launch import examine

    flags = {name: options.pop(name) for name in RECIPE_FLAGS}
    report(examine(flags, cache=cache_path, **options), as_json)


@main.command("fetch")
@click.argument("name", required=False)
@click.option("--dest", type=PATH, default=Path("weights"), show_default=True)
@click.option("--mirror", help="Base address that has the files by their names.")
@click.option("--no-unpack", is_flag=True)
def fetch_command(name: str | None, dest: Path, mirror: str | None, no_unpack: bool) -> None:
    """Official weights and annotation files by NAME; without it, the list."""
    from .pipeline.fetch.get import fetch, offer_lines, progress_bars

    if name is None:
        click.echo("\n".join(offer_lines(dest)))
        return
    with progress_bars() as on_file:
        paths = fetch(name, dest, base_url=mirror, unpack_archives=not no_unpack, on_file=on_file)
    click.echo("\n".join(map(str, paths)))


@main.group()
def bench() -> None:
    """Measurements behind the documentation's figures; ratios are of one run."""


@bench.command("tiny")
@click.option("--scenes", type=click.IntRange(min=1), default=200, show_default=True)
@click.option("--points-per-side", type=click.IntRange(1, 64), default=32, show_default=True)
@as_json
def bench_tiny_command(scenes: int, points_per_side: int, as_json: bool) -> None:
    """Quality of the shipped tiny SAM and encoder on scenes they never saw."""
    from .pipeline.bench.tiny import measure

    report(measure(scenes, points_per_side=points_per_side), as_json)


@bench.command("superpixels")
@click.option("--prompts", type=click.IntRange(min=1), default=1024, show_default=True)
@click.option("--size", type=(int, int), default=(480, 640), help="Height and width.")
@click.option("--scenes", type=click.IntRange(min=0), default=20, help="For exact against fast.")
@as_json
def bench_superpixels_command(
    prompts: int, size: tuple[int, int], scenes: int, as_json: bool
) -> None:
    """From low-resolution logits to superpixels, against the published code, in one run."""
    from .pipeline.bench.superpixels import run

    report(run(prompts=prompts, size=size, scenes=scenes), as_json)


@bench.command("store")
@click.option("--images", type=click.IntRange(min=64), default=384, show_default=True)
@click.option("--reps", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--mosaic", is_flag=True, help="Also MosaicML, in an environment made for it.")
@click.option("--folder", type=PATH, help="Where the files go; default the temporary folder.")
@as_json
def bench_store_command(
    images: int, reps: int, mosaic: bool, folder: Path | None, as_json: bool
) -> None:
    """The cache's reader and writer against memmap, zarr-python and MosaicML, in one run."""
    from .pipeline.bench.store import run

    report(run(images=images, reps=reps, mosaic=mosaic, folder=folder), as_json)


@bench.command("memory")
@click.option("--scenes", type=(int, int), default=(200, 2000), show_default=True)
@as_json
def bench_memory_command(scenes: tuple[int, int], as_json: bool) -> None:
    """Peak memory of a run of few and of many images; they must be the same."""
    from .pipeline.bench.memory import run

    report(run(scenes), as_json)


@bench.command("cost")
@click.option("--scenes", type=click.IntRange(min=8), default=200, show_default=True)
@click.option("--workers", type=click.IntRange(min=1), help="Default: one per core.")
@as_json
def bench_cost_command(scenes: int, workers: int | None, as_json: bool) -> None:
    """The dry run's prediction against the run itself; they must agree within 25 %."""
    from .pipeline.bench.cost import run

    report(run(scenes, workers=workers), as_json)
