"""`svp fetch`: download missing files."""

from pathlib import Path

import click

from .path_types import NEW_FOLDER


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
