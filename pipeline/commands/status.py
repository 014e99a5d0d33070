"""`svp status`: how far a cache is, and which processes are at work on it."""

import time
from typing import TYPE_CHECKING

import click

from .console import PLACE, as_json, report

if TYPE_CHECKING:
    from ..store import Place

PLAIN_EVERY_S = 10.0  # where there is no terminal to refresh


@click.command("status")
@click.argument("path", type=PLACE)
@click.option("--watch", is_flag=True, help="Refresh until no process has anything left to do.")
@as_json
def status_command(path: "Place", watch: bool, as_json: bool) -> None:
    """Show committed shards, rate, time left and the processes at work on a cache."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from ..precompute.cache_status import Watch

    seen = Watch(path)
    if not watch:
        return report(seen.look(), as_json)
    console = Console(stderr=as_json, highlight=False, markup=False, soft_wrap=True)
    if console.is_terminal and not console.is_dumb_terminal:
        with Live(console=console, transient=True, auto_refresh=False) as shown:
            for found in seen.looks():
                shown.update(Text("\n".join(found.lines())), refresh=True)
        return report(found, as_json)
    said = -PLAIN_EVERY_S
    for found in seen.looks():
        if not found.over and time.monotonic() - said >= PLAIN_EVERY_S:
            said = time.monotonic()
            click.echo(found.summary(), err=as_json)
    report(found, as_json)
