"""What the commands share: errors as exit codes, groups of options, reports for people or programs.

Exit codes: 0 done, 1 failed, 2 usage, 3 data or weights missing, 130 interrupted and resumable.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)
as_json = click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")


class Root(click.Group):
    """Turns our own errors into one line on stderr and the exit code of their class."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Raises SystemExit with the code of the error's class."""
        from ..errors import SvpError, describe

        try:
            return super().invoke(ctx)
        except SvpError as error:
            for line in getattr(error, "problems", None) or [describe(error)]:
                click.echo(f"svp: {line}", err=True)
            raise SystemExit(error.exit_code) from None


def several(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Options that several commands share, as one decorator."""

    def apply(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return apply


def report(result: Any, as_json: bool) -> None:
    """Print a report: `lines()` for people, `to_json()` for programs; exit with its `exit_code`."""
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=1, sort_keys=True))
    else:
        click.echo("\n".join(result.lines()))
    if code := getattr(result, "exit_code", 0):
        raise SystemExit(code)
