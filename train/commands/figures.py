"""`svp figures`: draw the paper's figures from a run."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from ...pipeline.commands.console import as_json, report
from ...pipeline.commands.data import max_failures, source_options
from ...pipeline.commands.path_types import NEW_FOLDER, PATH, PLACE


@click.command("figures")
@click.argument("run", type=PLACE)
@click.option("--results", type=PATH, help="Result file. Default: the run's newest.")
@click.option(
    "--from-cache", "cache", type=PLACE, help="Cache of the run. Default: found by digest."
)
@click.option(
    "--beside", type=PATH, multiple=True, help="Another cache of the same images; repeatable."
)
@click.option(
    "--against", type=PATH, multiple=True,
    help="Another run to draw beside, evaluated on the same split; repeatable.",
)  # fmt: skip
@click.option("--bench", type=PATH, help="Output of `svp bench infer --json`.")
@click.option("--dataset", help="Path or REFER names. Default: as recorded by the run.")
@source_options
@max_failures
@click.option("--init", help="Checkpoint the run started from.")
@click.option(
    "--device", default="auto", show_default=True, help="Device: auto, cpu, cuda or cuda:N."
)
@click.option(
    "--out",
    type=NEW_FOLDER,
    help="Folder of the page. Default: RUN/figures; of an address figures/RUN.",
)
@as_json
def figures_command(as_json: bool, init: str | None, **options: Any) -> None:
    """Draw the paper's figures from a run, or from the newest of a folder or address of runs."""
    from ..trainer.run_status import no_run

    run = options["run"]
    if isinstance(run, Path) and not run.exists():
        raise no_run(run)  # before PyTorch is imported
    from ..figures.run import FiguresRequest
    from ..figures.run import figures_command as draw
    from ..options import TrainFlags
    from ..runs.inputs import DataRequest

    data = DataRequest(**{f.name: options.pop(f.name) for f in fields(DataRequest)})
    request = FiguresRequest(data=data, flags=TrainFlags(init=init), **options)
    report(draw(request), as_json)
