"""`svp doctor` and `svp fetch`: check this machine, download missing files."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import NEW_FOLDER, PLACE, as_json, report
from .precompute import RECIPE_FLAGS, recipe_options

if TYPE_CHECKING:
    from ..store import Place


@click.command("doctor")
@recipe_options
@click.option("--from-cache", "--cache", "cache_path", type=PLACE, help="Also check this cache.")
@as_json
def doctor_command(cache_path: "Place | None", as_json: bool, **options: Any) -> None:
    """Check versions, devices, disk, memory and the weights that a recipe needs."""
    from ..doctor.examine import examine

    flags = {name: options.pop(name) for name in RECIPE_FLAGS}
    report(examine(flags, cache=cache_path, **options), as_json)


@click.command("fetch")
@click.argument("name", required=False)
@click.option("--dest", type=NEW_FOLDER, default=Path("weights"), show_default=True,
              help="Destination folder.")  # fmt: skip
@click.option("--mirror", help="Base URL of a mirror with the same file names.")
@click.option("--no-unpack", is_flag=True, help="Keep archives packed.")
def fetch_command(name: str | None, dest: Path, mirror: str | None, no_unpack: bool) -> None:
    """Download official weights and annotation files. Without NAME: list them."""
    from .. import recipe  # noqa: F401  it attaches the tables of models to the plug-ins' groups
    from ..fetch.fetch import fetch, offer_lines, progress_bars

    if name is None:
        click.echo("\n".join(offer_lines(dest)))
        return
    with progress_bars() as on_file:
        paths = fetch(name, dest, base_url=mirror, unpack_archives=not no_unpack, on_file=on_file)
    click.echo("\n".join(map(str, paths)))
