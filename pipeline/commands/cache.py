"""`svp cache`: inspect, check and repair caches."""

from collections.abc import Sequence
from pathlib import Path

import click

from .console import PATH, as_json, report


@click.group()
def cache() -> None:
    """Look at, check and repair caches."""


@cache.command("info")
@click.argument("path", type=PATH)
@as_json
def info_command(path: Path, as_json: bool) -> None:
    """Identity, recipe, arrays, what is committed and what is quarantined."""
    from ..cache.info import info

    report(info(path), as_json)


@cache.command("verify")
@click.argument("path", type=PATH)
@click.option("--quick", is_flag=True, help="Sizes and records only, not every byte.")
@as_json
def verify_command(path: Path, quick: bool, as_json: bool) -> None:
    """Check every byte; lists damaged files and what to do; exit code 1 if there are any."""
    from ..cache.verify import verify

    report(verify(path, full=not quick), as_json)


@cache.command("repair")
@click.argument("path", type=PATH)
def repair_command(path: Path) -> None:
    """Take damaged shards out, so that the same `svp precompute` makes only those again."""
    from ..cache.verify import repair

    shards = repair(path)
    click.echo(f"{len(shards)} shards taken out {shards or ''}: run the same svp precompute again")


@cache.command("stats")
@click.argument("path", type=PATH)
@click.option("--sample", type=click.IntRange(min=1), default=512, help="Images to look into.")
@as_json
def stats_command(path: Path, sample: int, as_json: bool) -> None:
    """Tokens per image, coverage, overlap, levels, survivors of each step, bytes."""
    from ..cache.stats import stats

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
    from ..browse.page import browse
    from ..cache.places import image_root_of

    root = images or image_root_of(path)
    out = out or Path("runs/pages") / path.resolve().name
    page = browse(path, out, images_root=root, limit=limit, ids=list(ids) or None)
    click.echo(f"page: {page.resolve().as_uri()}")
