"""`svp demo`: a page in the browser that asks a model about photographs."""

from typing import Any

import click

from ...pipeline.commands.console import PATH, PLACE, size_option
from .shared import checkpoint, device, lm_weights, published, runs


@click.command("demo")
@checkpoint
@published
@runs
@click.option(
    "--cache",
    "--from-cache",
    "cache",
    type=PLACE,
    help="Cache whose recipe is used for the images.",
)
@size_option
@click.option("--sam-weights", type=PATH, help="SAM checkpoint.")
@click.option("--encoder-weights", type=PATH, help="Encoder weights.")
@lm_weights
@device
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=7860,
    show_default=True,
    help="Port on this machine.",
)
@click.option("--open", "open_browser", is_flag=True, help="Open the page in the browser.")
def demo_command(**options: Any) -> None:
    """Ask a model about photographs in the browser, on this machine alone (extra `demo`)."""
    from ..runs.demo import DemoRequest
    from ..runs.demo import demo_command as run

    run(DemoRequest(**options))
