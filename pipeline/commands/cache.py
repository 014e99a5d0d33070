"""`svp cache`: inspect, check and repair caches; add, drop, copy and convert their layers."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..display import counted
from .console import as_json, report
from .path_types import NEW_FOLDER, NEW_PLACE, PATH, PHOTO_ROOT, PLACE
from .precompute import RECIPE_FLAGS, layer_options, run_of, run_options

if TYPE_CHECKING:
    from ..store import Place


@click.group()
def cache() -> None:
    """Inspect, check and repair caches; add, drop, copy and convert their layers."""


@cache.command("info")
@click.argument("path", type=PLACE)
@as_json
def info_command(path: "Place", as_json: bool) -> None:
    """Show identity, recipe and arrays, the images by state, and the latest run."""
    from ..cache.info import info
    from ..precompute.progress import read_status, status_line

    report(info(path), as_json)
    if not as_json and (status := read_status(path)):
        click.echo(status_line(status))


@cache.command("verify")
@click.argument("path", type=PLACE)
@click.option("--quick", is_flag=True, help="Check sizes and records only, not every byte.")
@as_json
def verify_command(path: "Place", quick: bool, as_json: bool) -> None:
    """Check every byte and list damaged files; exit code 1 if there are any."""
    from ..cache.verify import verify

    report(verify(path, full=not quick), as_json)


@cache.command("repair")
@click.argument("path", type=PLACE)
def repair_command(path: "Place") -> None:
    """Un-commit damaged shards, so that the same `svp precompute` makes only those again."""
    from ..cache.verify import repair

    shards = repair(path)
    click.echo(
        f"{counted(len(shards), 'shard')} un-committed {shards}: run the same svp precompute again"
        if shards
        else "no shard is damaged"
    )


@cache.command("browse")
@click.argument("path", type=PLACE)
@click.option("--out", type=NEW_FOLDER, help="Folder of the page. Default: runs/pages/<cache>.")
@click.option("--images", type=PHOTO_ROOT, metavar="PATH|s3://...",
              help="Folder or address of the images, if they were moved.")  # fmt: skip
@click.option(
    "--limit",
    type=click.IntRange(1, 500),
    default=24,
    show_default=True,
    help="Number of images to show.",
)
@click.option("--id", "ids", type=int, multiple=True, help="Image id to show; repeatable.")
def browse_command(
    path: "Place", out: Path | None, images: Path | None, limit: int, ids: Sequence[int]
) -> None:
    """Write a static page with the superpixels, levels, gaps, overlaps and counts."""
    from ..browse.page import browse
    from ..cache.places import image_root_of

    root = images or image_root_of(path)
    from ..store import open_store

    name = open_store(path.resolve() if isinstance(path, Path) else path).where().rsplit("/", 1)[-1]
    out = out or Path("runs/pages") / name
    page = browse(path, out, images_root=root, limit=limit, ids=list(ids) or None)
    click.echo(f"page: {page.resolve().as_uri()}")


@cache.command("add")
@click.argument("path", type=PLACE)
@click.argument(
    "kind",
    type=click.Choice(["features", "layers", "cls", "sam", "superpixels", "pooled"]),
    metavar="KIND",
)
@click.option("--images", type=PHOTO_ROOT, metavar="PATH|s3://...",
              help="Folder or address of the images, if they were moved.")  # fmt: skip
@click.option(
    "--projector",
    default="tokenpacker",
    show_default=True,
    help="Projector whose encoder blocks `layers` are to be.",
)
@layer_options
@run_options
@as_json
def add_command(path: "Place", kind: str, as_json: bool, **options: Any) -> None:
    """Compute one more layer of a cache. What is there is not computed again.

    KIND is features (of another encoder), cls (its CLS token), layers (more of its blocks), sam
    (SAM's embeddings), pooled (the mean of the features under each superpixel) or superpixels.
    """
    from ..precompute.add_layer import AddRequest, add_layer
    from ..precompute.options import Flags

    flags = Flags(**{name: options.pop(name) for name in RECIPE_FLAGS if name in options})
    run = run_of(options)
    report(add_layer(AddRequest(cache=path, kind=kind, flags=flags, run=run, **options)), as_json)


@cache.command("drop")
@click.argument("path", type=PLACE)
@click.argument("layers", nargs=-1, required=True, metavar="LAYER...")
def drop_command(path: "Place", layers: Sequence[str]) -> None:
    """Delete layers by folder (sam/vit_h) or kind (sam), and the plans that read them."""
    from ..cache.exchange import drop_layers

    for folder in drop_layers(path, layers):
        click.echo(f"dropped {folder}")


@cache.command("copy")
@click.argument("path", type=PLACE)
@click.option("--out", type=NEW_PLACE, required=True, help="Folder or address of the copy.")
@click.option(
    "--layers",
    metavar="KIND,...",
    help="Only these kinds: superpixels,cover,features and of pooled,layers,cls,sam,order; of the oldest "
    "plan that has them. Default: all layers of all plans.",
)
@click.option(
    "--thin",
    is_flag=True,
    help="Means of superpixels instead of patch features, SAM's embedding in int8.",
)
def copy_command(path: "Place", out: "Place", layers: str | None, thin: bool) -> None:
    """Copy a complete cache, or some of its layers, to a new folder; every byte is checked."""
    from ..cache.exchange import copy_cache
    from ..cache.verify import layers_in

    kinds = [name.strip() for name in layers.split(",")] if layers else []
    plan = copy_cache(path, out, kinds, thin=thin)
    click.echo(f"{out}: cache {plan.id[:12]}, {', '.join(x.folder for x in layers_in(out))}")


@cache.command("convert")
@click.argument("path", type=PATH)
@click.option("--out", type=NEW_FOLDER, required=True, help="Folder of the converted cache.")
@as_json
def convert_command(path: Path, out: Path, as_json: bool) -> None:
    """Convert a cache made by svp 0.1 to the present format; its shard files stay as they are."""
    from ..cache.first_format import convert

    report(convert(path, out), as_json)
