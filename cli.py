"""The `svp` command. Each command is a few lines that call one function; heavy imports wait inside.

Exit codes: 0 done, 1 failed, 2 usage, 3 data or weights missing, 130 interrupted and resumable.
"""

import click

from . import __version__
from .pipeline.commands.bench import bench
from .pipeline.commands.cache import cache
from .pipeline.commands.console import Root
from .pipeline.commands.data import data
from .pipeline.commands.machine import doctor_command, fetch_command
from .pipeline.commands.precompute import precompute_command
from .train.bench.commands import BENCHES
from .train.commands import COMMANDS
from .train.figures.commands import figures_command
from .train.rehearse.commands import rehearse_command
from .train.reproduce.commands import reproduce_command


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="svp")
@click.option(
    "--plugin", "plugins", multiple=True, metavar="FILE",
    help="Python file with projectors or superpixel sources of your own; also after the command.",
)  # fmt: skip
def main() -> None:
    """Semantic superpixels as visual tokens: cut images once, then train on about 40 tokens."""


for command in (
    data, precompute_command, cache, *COMMANDS, reproduce_command, figures_command, rehearse_command,
    doctor_command, fetch_command, bench,
):  # fmt: skip
    main.add_command(command)
for measurement in BENCHES:
    bench.add_command(measurement)
