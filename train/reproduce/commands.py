"""`svp reproduce`."""

from pathlib import Path
from typing import Any

import click

from ...pipeline.commands.console import PATH, as_json, report
from .names import TABLE_NAMES, TABLE_SIZES


@click.command("reproduce")
@click.argument("table", type=click.Choice(TABLE_NAMES), metavar="TABLE")
@click.option("--size", type=click.Choice(TABLE_SIZES), default="tiny", show_default=True)
@click.option("--seeds", type=click.IntRange(1, 100), default=3, show_default=True)
@click.option("--row", "rows", multiple=True, metavar="NAME", help="Only this row; repeatable.")
@click.option("--set", "changes", multiple=True, metavar="A.B=C",
              help="Change every row's training recipe; the table gets its own name.")  # fmt: skip
@click.option("--out", type=PATH, default=Path("results"), show_default=True)
@click.option("--runs", type=PATH, default=Path("runs/reproduce"), show_default=True)
@click.option("--caches", type=PATH, default=Path("caches/reproduce"), show_default=True)
@click.option("--root", type=PATH, help="Paper size: folder of the REFER sets.")
@click.option("--init", help="Paper size: the checkpoint the models start from.")
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
@click.option("--workers", type=click.IntRange(min=0), help="That make caches; default: cores.")
@click.option("--plan", is_flag=True, help="What is there, what would run, what it costs; stop.")
@as_json
def reproduce_command(plan: bool, as_json: bool, **options: Any) -> None:
    """A table of the paper, ours beside the paper's. Give it again to go on.

    TABLE is table1 to table7, tableC or fig5.
    """
    from .ask import Ask
    from .plan import reproduce_or_plan

    report(reproduce_or_plan(Ask(say=_say, **options), plan_only=plan), as_json)


def _say(line: str) -> None:
    click.echo(line, err=True)
