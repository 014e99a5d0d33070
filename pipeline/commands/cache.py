"""`svp cache`: inspect, check and repair caches."""

from collections.abc import Sequence
from pathlib import Path

import click

from ..display import counted
from .console import FOLDER, NEW_FOLDER, PATH, as_json, report


@click.group()
def cache() -> None:
    """Inspect, check and repair caches."""


@cache.command("info")
@click.argument("path", type=PATH)
@as_json
def info_command(path: Path, as_json: bool) -> None:
    """Show identity, recipe and arrays, the images by state, and the latest run."""
    from ..cache.info import info
    from ..cache.layout import LOGS
    from ..precompute.progress import read_status, status_line

    report(info(path), as_json)
    if not as_json and (status := read_status(path / LOGS)):
        click.echo(status_line(status))


@cache.command("verify")
@click.argument("path", type=PATH)
@click.option("--quick", is_flag=True, help="Check sizes and records only, not every byte.")
@as_json
def verify_command(path: Path, quick: bool, as_json: bool) -> None:
    """Check every byte and list damaged files; exit code 1 if there are any."""
    from ..cache.verify import verify

    report(verify(path, full=not quick), as_json)


@cache.command("repair")
@click.argument("path", type=PATH)
def repair_command(path: Path) -> None:
    """Un-commit damaged shards, so that the same `svp precompute` makes only those again."""
    from ..cache.verify import repair

    shards = repair(path)
    click.echo(
        f"{counted(len(shards), 'shard')} un-committed {shards or ''}: run the same svp precompute "
        "again"
    )


@cache.command("stats")
@click.argument("path", type=PATH)
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    help="Images whose masks are read.",
)
@as_json
def stats_command(path: Path, sample: int, as_json: bool) -> None:
    """Show tokens per image, coverage, overlap, levels, selection steps and bytes."""
    from ..cache.stats import stats

    report(stats(path, sample), as_json)


@cache.command("browse")
@click.argument("path", type=PATH)
@click.option("--out", type=NEW_FOLDER, help="Folder of the page. Default: runs/pages/<cache>.")
@click.option("--images", type=FOLDER, help="Folder of the images, if they were moved.")
@click.option(
    "--limit",
    type=click.IntRange(1, 500),
    default=24,
    show_default=True,
    help="Number of images to show.",
)
@click.option("--id", "ids", type=int, multiple=True, help="Image id to show; repeatable.")
def browse_command(
    path: Path, out: Path | None, images: Path | None, limit: int, ids: Sequence[int]
) -> None:
    """Write a static page with the superpixels, levels, gaps, overlaps and counts."""
    from ..browse.page import browse
    from ..cache.places import image_root_of

    root = images or image_root_of(path)
    out = out or Path("runs/pages") / path.resolve().name
    page = browse(path, out, images_root=root, limit=limit, ids=list(ids) or None)
    click.echo(f"page: {page.resolve().as_uri()}")
