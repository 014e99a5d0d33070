"""`svp status`: how far a cache or a run is, and which processes are at work on it."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...pipeline.commands.console import as_json, report
from ...pipeline.commands.path_types import NEW_FOLDER, PLACE

if TYPE_CHECKING:
    from ...pipeline.store import Place

PLAIN_EVERY_S = 10.0  # where there is no terminal to refresh


@click.command("status")
@click.argument("path", type=PLACE)
@click.option("--watch", is_flag=True, help="Refresh until no process has anything left to do.")
@click.option(
    "--page", type=NEW_FOLDER, help="Write a page with the learning curves of the run here."
)
@as_json
def status_command(path: "Place", watch: bool, page: Path | None, as_json: bool) -> None:
    """Show how far a cache or a run is, its rate and the time left, also after its process was killed.

    Of a folder of runs: the newest, and all with their scores on held-out images.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from ...pipeline.precompute.cache_status import Watch
    from ..trainer.run_list import RunsReport, list_runs
    from ..trainer.run_status import RunReport, RunWatch, is_run, run_or_newest

    given, path = path, run_or_newest(path)
    folder = given if isinstance(given, Path) and path != given else None  # of several runs
    if page is not None and not is_run(path):
        raise click.UsageError("--page is of a run: `svp cache browse` writes that of a cache")
    seen: Watch | RunWatch = RunWatch(path) if is_run(path) else Watch(path)

    def draw() -> None:
        if page is not None:
            from ..evaluation.page.learning_curves import write_page

            click.echo(f"page: {write_page(path, page).resolve().as_uri()}", err=as_json)

    if not watch:
        draw()  # a run of an earlier version has curves and no status
        now = seen.look()
        if folder is not None and isinstance(now, RunReport):
            runs = list_runs(folder)
            return report(RunsReport(now, runs) if len(runs) > 1 else now, as_json)
        return report(now, as_json)
    console = Console(stderr=as_json, highlight=False, markup=False, soft_wrap=True)
    if console.is_terminal and not console.is_dumb_terminal:
        with Live(console=console, transient=True, auto_refresh=False) as shown:
            for found in seen.looks():
                shown.update(Text("\n".join(found.lines())), refresh=True)
        draw()
        return report(found, as_json)
    said = -PLAIN_EVERY_S
    for found in seen.looks():
        if not found.over and time.monotonic() - said >= PLAIN_EVERY_S:
            said = time.monotonic()
            click.echo(found.summary(), err=as_json)
    draw()
    report(found, as_json)
