"""The `svp` command."""

import click


@click.group()
def main() -> None:
    """Semantic superpixels as visual tokens."""
