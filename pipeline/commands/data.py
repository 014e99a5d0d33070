"""`svp data`: inspect, convert and generate data sets."""

from pathlib import Path
from typing import Any

import click

from .console import PATH, as_json, either, report, several

source_options = several(
    click.option("--images", type=PATH, help="Folder of the photographs, if not found around it."),
    click.option("--root", type=PATH, help="Folder the names of REFER sets are looked for in."),
    click.option("--split-by", help="REFER split file: unc, google or umd."),
    click.option(
        "--allow-google", is_flag=True, help="Accept google splits (objects, not images)."
    ),
    click.option("--allow-counts", is_flag=True, help="Accept counts other than the published."),
    click.option("--allow-empty", is_flag=True, help="Empty masks in val and test are meant."),
)
max_failures = click.option(
    "--max-failures", type=click.IntRange(min=0), metavar="N",
    help="More bad images or records: exit 1.",
)  # fmt: skip


@click.group()
def data() -> None:
    """Look at, convert and generate datasets."""


@data.command("check")
@click.argument("path")
@source_options
@click.option("--split", help="COCO: which instances file.")
@max_failures
@click.option("--headers-only", is_flag=True, help="Do not decode the images.")
@as_json
def check_command(path: str, headers_only: bool, as_json: bool, **options: Any) -> None:
    """Counts, problems by record and overlaps of a dataset; exit code 1 if it is not usable."""
    from ..datasets import check

    report(check(path, decode=not headers_only, **options), as_json)


@data.command("convert")
@click.argument("path")
@click.option("--out", type=PATH, required=True, help="New folder for the tables.")
@source_options
@max_failures
@click.option("--split", help="COCO: which instances file.")
@as_json
def convert_command(path: str, out: Path, as_json: bool, **options: Any) -> None:
    """Write the normalised tables (images, sentences, masks); they are a dataset again."""
    from ..datasets import convert

    report(convert(path, out, **options), as_json)


@data.command("export")
@click.argument("path")
@click.option("--out", type=PATH, required=True, help="JSONL file to write.")
@source_options
@max_failures
@click.option("--split", help="Only this split.")
def export_command(path: str, out: Path, **options: Any) -> None:
    """Write a dataset as JSONL: image, expression, mask as RLE."""
    from ..datasets import export_jsonl, open_dataset

    source = open_dataset(path, masks=True, **options)
    for notice in source.notices:
        click.echo(notice, err=True)
    click.echo(f"wrote {export_jsonl(source, out)} lines to {out}")


@data.command("synth")
@either("out")
@click.option("--images", type=click.IntRange(min=1), default=200, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def synth_command(out: Path, images: int, seed: int) -> None:
    """Write generated scenes as COCO, REFER and JSONL; a finished folder is left as it is."""
    from ..datasets.scenes import write_scenes

    click.echo(f"scenes: {write_scenes(out, images=images, seed=seed)}")
