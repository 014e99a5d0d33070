"""`svp answers`, `svp cache export` and `svp data tsv`: data for other programs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..pipeline.commands.console import as_json, report
from ..pipeline.commands.data import max_failures, source_options
from ..pipeline.commands.path_types import NEW_FOLDER, PATH, PHOTO_ROOT, PLACE

if TYPE_CHECKING:
    from ..pipeline.store import Place

target = click.option(
    "--to", "kind", type=click.Choice(["coco", "fiftyone"]), required=True,
    help="Format: COCO instances and results, or a FiftyOneDataset.",
)  # fmt: skip
out = click.option("--out", type=NEW_FOLDER, required=True, help="New folder for the files.")


@click.command("export")
@click.argument("path", type=PLACE)
@target
@out
@click.option("--images", type=PHOTO_ROOT, metavar="PATH|s3://...",
              help="Folder or address of the images, if they were moved.")  # fmt: skip
@as_json
def export_cache_command(
    path: "Place", kind: str, out: Path, images: Path | None, as_json: bool
) -> None:
    """Write the superpixels of a cache for COCO's tools or FiftyOne, with level and score."""
    from .exports import export
    from .pictures import superpixels_of

    report(export(superpixels_of(path, images), kind, out), as_json)


@click.command("answers")
@click.argument("path", type=PATH)
@target
@out
@click.option("--dataset", help="Data set of the result file, for the targets.")
@source_options
@max_failures
@as_json
def answers_command(path: Path, kind: str, out: Path, as_json: bool, **options: Any) -> None:
    """Write the answers of `svp eval` (its result file) or `svp predict` (its JSON, its folder) for
    COCO's tools or FiftyOne, with their IoU.
    """
    from .exports import evaluated_source, export
    from .pictures import answers_of

    images = options["images"]
    source = evaluated_source(path, **options)
    report(export(answers_of(path, source, images), kind, out), as_json)


@click.command("tsv")
@click.argument("path")
@out
@source_options
@max_failures
@click.option("--split", help="Write this split only.")
@as_json
def tsv_command(path: str, out: Path, as_json: bool, **options: Any) -> None:
    """Write a data set as the TSV files of VLMEvalKit, one per split, photographs included."""
    from ..pipeline.datasets import open_dataset
    from .vlmevalkit import write_tsv

    source = open_dataset(path, masks=True, **options)
    for notice in source.notices:
        click.echo(notice, err=True)
    report(write_tsv(source, out), as_json)
