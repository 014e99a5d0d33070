"""`svp reproduce`: reproduce the paper's tables."""

from pathlib import Path
from typing import Any

import click

from ...pipeline.commands.console import as_json, report
from ...pipeline.commands.path_types import FOLDER, NEW_FOLDER
from ..cli_defaults import ALL, GPU_NAMES, TABLE_NAMES, TABLE_SIZES


@click.command("reproduce")
@click.argument("table", type=click.Choice([*TABLE_NAMES, ALL]), metavar="TABLE")
@click.option("--size", type=click.Choice(TABLE_SIZES), default="tiny", show_default=True,
              help="Tiny models on generated scenes, or the paper's.")  # fmt: skip
@click.option(
    "--seeds", type=click.IntRange(1, 100), help="Number of seeds. Default: 3, in a rehearsal 1."
)
@click.option("--row", "rows", multiple=True, metavar="NAME", help="Run only this row; repeatable.")
@click.option("--rows", "every", type=click.Choice(["all"]), help="Run every row (the default).")
@click.option("--projector", "projectors", multiple=True, metavar="NAME",
              help="Table budget: compare this projector of a plug-in, too; repeatable.")  # fmt: skip
@click.option("--set", "changes", multiple=True, metavar="A.B=C",
              help="Set a training recipe field of every row; the table gets its own name.")  # fmt: skip
@click.option("--out", type=NEW_FOLDER, default=Path("results"), show_default=True,
              help="Folder of the tables.")  # fmt: skip
@click.option("--runs", type=NEW_FOLDER, default=Path("runs/reproduce"), show_default=True,
              help="Folder of the runs.")  # fmt: skip
@click.option("--caches", type=NEW_FOLDER, default=Path("caches/reproduce"), show_default=True,
              help="Folder of the caches.")  # fmt: skip
@click.option("--root", type=FOLDER, help="Paper size: folder that contains the REFER sets.")
@click.option("--init", help="Paper size: checkpoint that training starts from.")
@click.option("--published", default="GLaMM-RefSeg", show_default=True,
              help="Paper size: GLaMM of table 3, as in svp eval.")  # fmt: skip
@click.option("--protocol", type=click.Choice(["full", "glamm"]), default="full",
              show_default=True, help="Protocol, as in svp eval; the paper uses glamm.")  # fmt: skip
@click.option(
    "--device", default="auto", show_default=True, help="Device: auto, cpu, cuda or cuda:N."
)
@click.option("--processes", type=click.IntRange(min=1), default=1, metavar="N",
              help="Train and evaluate on N processes, with accelerate launch.")  # fmt: skip
@click.option("--mode", type=click.Choice(["exact", "fast"]), help="Mode of SAM.")
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="Dtype of SAM."
)
@click.option("--executor", metavar="NAME", default="local", show_default=True,
              help="Executor of the caches: local, ray, dask or a plug-in.")  # fmt: skip
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Workers that make caches. Default: one per GPU, else per core.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="CPU threads per worker.",
)
@click.option("--ray-address", help="Address of a running Ray cluster.")
@click.option("--dask-scheduler", help="Address of a running Dask scheduler.")
@click.option("--gpu", type=click.Choice(GPU_NAMES), default="h100", show_default=True,
              help="GPU for which plans are priced.")  # fmt: skip
@click.option("--rehearse", is_flag=True,
              help="Paper size: run every row on stand-ins made in ./rehearsal.")  # fmt: skip
@click.option("--plan", "--dry-run", is_flag=True,
              help="Print what exists, what would run and its cost, and stop.")  # fmt: skip
@as_json
def reproduce_command(plan: bool, rehearse: bool, as_json: bool, **options: Any) -> None:
    """Reproduce a table of the paper. Re-run the same command to resume.

    TABLE is table1 to table7, tableC, fig5, or ours: stored (caches in fewer bits) and budget
    (accuracy over visual tokens); with --plan also all of the paper's, which counts shared work once.
    """
    if options.pop("every") and options["rows"]:
        raise click.UsageError("--rows all and --row NAME exclude each other")
    from ...pipeline.process import this_command

    options["hint"] = this_command()
    if rehearse:
        from ..reproduce.dry_run import rehearsed

        return report(rehearsed(options, plan_only=plan), as_json)
    from ..reproduce.dry_run import reproduce_or_plan
    from ..reproduce.request import ReproduceRequest

    options["seeds"] = options["seeds"] or 3
    report(reproduce_or_plan(ReproduceRequest(**options), plan_only=plan), as_json)
