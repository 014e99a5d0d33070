"""The `svp` command line: commands are imported lazily, each calls one function.

Exit codes: 0 done, 1 failed, 2 usage, 3 data or weights missing, 130 interrupted and resumable.
"""

import click

from . import __version__
from .integrations.export_commands import answers_command, export_cache_command, tsv_command
from .pipeline.commands.bench import bench
from .pipeline.commands.cache import cache
from .pipeline.commands.console import Root
from .pipeline.commands.data import data
from .pipeline.commands.downloads import fetch_command
from .pipeline.commands.precompute import precompute_command
from .train.commands.annotated import ANNOTATED
from .train.commands.bench import BENCHES
from .train.commands.doctor import doctor_command
from .train.commands.evaluate import TRAINED
from .train.commands.figures import figures_command
from .train.commands.rehearse import rehearse_command
from .train.commands.reproduce import reproduce_command
from .train.commands.status import status_command
from .train.commands.train import TRAINING


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="svp")
@click.option(
    "--plugin", "plugins", multiple=True, metavar="FILE",
    help="Python file that registers projectors, encoders, executors, ...; repeatable.",
)  # fmt: skip
def main() -> None:
    """Referring image segmentation with semantic superpixels as visual tokens."""


for command in (
    data, precompute_command, status_command, cache, *TRAINING, *TRAINED, answers_command, reproduce_command, figures_command,
    rehearse_command, doctor_command, fetch_command, bench,
):  # fmt: skip
    main.add_command(command)
for judged in (*ANNOTATED, export_cache_command):
    cache.add_command(judged)
data.add_command(tsv_command)
for measurement in BENCHES:
    bench.add_command(measurement)
