"""`svp rehearse`: run the documented commands on stand-ins."""

from pathlib import Path

import click

from ...pipeline.commands.console import as_json, report
from ...pipeline.commands.path_types import NEW_FOLDER


@click.command("rehearse")
@click.option(
    "--out",
    type=NEW_FOLDER,
    help="Folder to work in. Default: a temporary one, removed if all commands passed.",
)
@click.option(
    "--full", is_flag=True, help="Use the published model sizes: about 40 GB, hours on a CPU."
)
@click.option("--keep", is_flag=True, help="Keep the temporary folder.")
@click.option("--only", multiple=True, metavar="BLOCK",
              help="Run only blocks whose name contains this, such as README.md; repeatable.")  # fmt: skip
@as_json
def rehearse_command(
    out: Path | None, full: bool, keep: bool, only: tuple[str, ...], as_json: bool
) -> None:
    """Run every documented command on stand-ins of the published files.

    Nothing is downloaded, and the printed metrics are not results. Exit code 1 if a command fails or
    a document contains one that does not exist.
    """
    from ..rehearse.run import rehearse

    main = click.get_current_context().find_root().command
    report(rehearse(out, full=full, keep=keep, only=only, main=main), as_json)
