"""`svp fetch`: download missing files."""

from pathlib import Path

import click

from .path_types import NEW_FOLDER


@click.command("fetch")
@click.argument("name", required=False)
@click.option("--dest", type=NEW_FOLDER, default=Path("weights"), show_default=True,
              help="Destination folder.")  # fmt: skip
@click.option("--mirror", help="Base URL of a mirror with the same file names.")
@click.option("--revision", metavar="COMMIT",
              help="Commit of the hub's repository, for files without a known digest.")  # fmt: skip
@click.option("--no-unpack", is_flag=True, help="Keep archives packed.")
def fetch_command(
    name: str | None, dest: Path, mirror: str | None, revision: str | None, no_unpack: bool
) -> None:
    """Download official weights and annotation files. Without NAME: list them."""
    from .. import recipe  # noqa: F401  it attaches the tables of models to the plug-ins' groups
    from ..fetch.catalogue import find_remote
    from ..fetch.download import digest_of
    from ..fetch.fetch import fetch, offer_lines, progress_bars

    if name is None:
        click.echo("\n".join(offer_lines(dest)))
        return
    with progress_bars() as on_file:
        paths = fetch(
            name, dest, base_url=mirror, revision=revision, unpack_archives=not no_unpack,
            on_file=on_file,
        )  # fmt: skip
    click.echo("\n".join(map(str, paths)))
    if revision is None and any(file.moves for file in find_remote(name).files):
        for path in paths:
            click.echo(f"{path}: sha256:{digest_of(path, 'sha256')}")
        click.echo(
            "note: the newest files, which may change; --revision COMMIT fetches the same again"
        )
