"""`svp data`: inspect, convert and generate data sets."""

from pathlib import Path
from typing import Any

import click

from .console import as_json, either, report, several
from .path_types import FOLDER, NEW_FILE, NEW_FOLDER, PHOTOGRAPHS

source_options = several(
    click.option(
        "--images",
        type=PHOTOGRAPHS,
        metavar="PATH|s3://...",
        help="Folder or address of the images, if not found near the data set.",
    ),
    click.option("--root", type=FOLDER, help="Folder that contains the REFER sets."),
    click.option("--split-by", help="REFER split file: unc, google or umd."),
    click.option(
        "--allow-google",
        is_flag=True,
        help="Accept google splits, which share images between train and val.",
    ),
    click.option(
        "--allow-counts", is_flag=True, help="Accept counts that differ from the published ones."
    ),
    click.option("--allow-empty", is_flag=True, help="Accept empty masks in val and test."),
)
max_failures = click.option(
    "--max-failures", type=click.IntRange(min=0), metavar="N",
    help="Bad images or records to accept; more give exit code 1.",
)  # fmt: skip


@click.group()
def data() -> None:
    """Inspect, convert and generate data sets."""


@data.command("check")
@click.argument("path")
@source_options
@click.option("--split", help="Split of a COCO folder: selects the instances file.")
@max_failures
@click.option("--headers-only", is_flag=True, help="Read image headers only, without decoding.")
@click.option(
    "--page", type=NEW_FOLDER, help="Write a page with every expression over its photograph here."
)
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True,
              help="Photographs on the page, spread evenly over the data set.")  # fmt: skip
@as_json
def check_command(
    path: str, headers_only: bool, page: Path | None, limit: int, as_json: bool, **options: Any
) -> None:
    """Report counts, problems and overlaps of a data set; exit code 1 if it is unusable."""
    from ..datasets import check

    found = check(path, decode=not headers_only, **options)
    if page is not None:
        _write_page(path, page, limit, found.usable, options)
    report(found, as_json)


def _write_page(path: str, page: Path, limit: int, usable: bool, options: dict[str, Any]) -> None:
    """The page of a data set that a run could start on; its address goes to stderr."""
    if not usable:
        return click.echo("no page: the data set is not usable", err=True)
    from ..browse.expressions_page import write_expressions
    from ..datasets import open_dataset

    source = open_dataset(path, photos=False, **options)
    written = write_expressions(source, page, limit=limit)
    click.echo(f"page: {written.resolve().as_uri()}", err=True)


@data.command("convert")
@click.argument("path")
@click.option("--out", type=NEW_FOLDER, required=True, help="New folder for the tables.")
@source_options
@max_failures
@click.option("--split", help="Split of a COCO folder: selects the instances file.")
@as_json
def convert_command(path: str, out: Path, as_json: bool, **options: Any) -> None:
    """Write normalised tables (images, sentences, masks), which are a data set themselves."""
    from ..datasets import convert

    report(convert(path, out, **options), as_json)


@data.command("export")
@click.argument("path")
@click.option("--out", type=NEW_FILE, required=True, help="JSONL file to write.")
@source_options
@max_failures
@click.option("--split", help="Export this split only.")
def export_command(path: str, out: Path, **options: Any) -> None:
    """Export a data set as JSONL: image, expression and mask as RLE."""
    from ..datasets import export_jsonl, open_dataset

    source = open_dataset(path, masks=True, **options)
    for notice in source.notices:
        click.echo(notice, err=True)
    click.echo(f"wrote {export_jsonl(source, out)} lines to {out}")


@data.command("synth")
@either("out", NEW_FOLDER)
@click.option("--images", type=click.IntRange(min=1), default=200, show_default=True,
              help="Number of scenes.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
              help="Seed of the scenes.")  # fmt: skip
@click.option("--world", type=click.IntRange(1, 2), default=1, show_default=True,
              help="Kind of scenes; in 2, parts, outlines and positions tell objects apart.")  # fmt: skip
@click.option(
    "--difficulty", type=click.IntRange(0, 100), help="Difficulty of world 2. Default: 50."
)
@click.option("--no-target", is_flag=True,
              help="Add expressions that are true of nothing to scenes.jsonl.")  # fmt: skip
@click.option("--captions", is_flag=True,
              help="Also write captions.jsonl, texts about whole images of world 2.")  # fmt: skip
def synth_command(out: Path, images: int, seed: int, **options: Any) -> None:
    """Write generated scenes as COCO, REFER and JSONL; a finished folder is kept."""
    from ..datasets.scenes import write_scenes
    from ..weights.rehearsal import few_scenes

    images = min(images, 4 * few_scenes(images))  # in a rehearsal few, but some of every split
    made = write_scenes(out, images=images, seed=seed, **options)
    click.echo(f"scenes: {made}")
