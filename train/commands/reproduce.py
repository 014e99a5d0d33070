"""`svp reproduce`: reproduce the paper's tables."""

from pathlib import Path
from typing import Any

import click

from ...pipeline.commands.console import PATH, as_json, report
from ..cli_defaults import ALL, GPU_NAMES, TABLE_NAMES, TABLE_SIZES


@click.command("reproduce")
@click.argument("table", type=click.Choice([*TABLE_NAMES, ALL]), metavar="TABLE")
@click.option("--size", type=click.Choice(TABLE_SIZES), default="tiny", show_default=True)
@click.option("--seeds", type=click.IntRange(1, 100), help="Default 3, in a rehearsal 1.")
@click.option("--row", "rows", multiple=True, metavar="NAME", help="Only this row; repeatable.")
@click.option("--rows", "every", type=click.Choice(["all"]), help="Every row, the default.")
@click.option("--set", "changes", multiple=True, metavar="A.B=C",
              help="Change every row's training recipe; the table gets its own name.")  # fmt: skip
@click.option("--out", type=PATH, default=Path("results"), show_default=True)
@click.option("--runs", type=PATH, default=Path("runs/reproduce"), show_default=True)
@click.option("--caches", type=PATH, default=Path("caches/reproduce"), show_default=True)
@click.option("--root", type=PATH, help="Paper size: folder of the REFER sets.")
@click.option("--init", help="Paper size: the checkpoint the models start from.")
@click.option("--published", default="GLaMM-RefSeg", show_default=True,
              help="Paper size: table 3's GLaMM, as in svp eval.")  # fmt: skip
@click.option("--protocol", type=click.Choice(["full", "glamm"]), default="full",
              show_default=True, help="As in svp eval; the paper's is glamm.")  # fmt: skip
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N; of everything.")
@click.option("--processes", type=click.IntRange(min=1), default=1, metavar="N",
              help="Train and evaluate with accelerate launch.")  # fmt: skip
@click.option("--mode", type=click.Choice(["exact", "fast"]), help="Of SAM.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="Of SAM.")
@click.option("--executor", type=click.Choice(["local", "ray", "dask"]), default="local",
              help="That makes caches.")  # fmt: skip
@click.option(
    "--workers", type=click.IntRange(min=0), help="That make caches; default: GPUs, else cores."
)
@click.option("--threads", type=click.IntRange(min=1), default=1, help="Of one worker.")
@click.option("--ray-address", help="Join this Ray cluster.")
@click.option("--dask-scheduler", help="Join this Dask scheduler.")
@click.option("--gpu", type=click.Choice(GPU_NAMES), default="h100", show_default=True,
              help="Price plans for this GPU.")  # fmt: skip
@click.option("--rehearse", is_flag=True,
              help="Paper size: every row to its end on stand-ins made in ./rehearsal.")  # fmt: skip
@click.option("--plan", "--dry-run", is_flag=True,
              help="What is there, what would run, what it costs; stop.")  # fmt: skip
@as_json
def reproduce_command(plan: bool, rehearse: bool, as_json: bool, **options: Any) -> None:
    """A table of the paper, ours beside the paper's. Give it again to go on.

    TABLE is table1 to table7, tableC or fig5; all, with --plan: every table, shared work once.
    """
    if options.pop("every") and options["rows"]:
        raise click.UsageError("--rows all and --row NAME exclude each other")
    from ...pipeline.process import this_command

    options["hint"] = this_command()
    if rehearse:
        from ..reproduce.dry_run import rehearsed

        return report(rehearsed(options, plan_only=plan, say=_say), as_json)
    from ..reproduce.dry_run import reproduce_or_plan
    from ..reproduce.request import ReproduceRequest

    options["seeds"] = options["seeds"] or 3
    report(reproduce_or_plan(ReproduceRequest(say=_say, **options), plan_only=plan), as_json)


def _say(line: str) -> None:
    click.echo(line, err=True)
