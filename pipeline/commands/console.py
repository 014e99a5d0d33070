"""Shared parts of the commands: exit codes, option groups, text and JSON reports.

Exit codes: 0 done, 1 failed, 2 usage, 3 data or weights missing, 130 interrupted and resumable.
"""

import errno
import json
import logging
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import wraps
from types import FrameType
from typing import Any, TypeVar, cast

import click

from ..display import Report
from .path_types import PATH

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}  # of a write, which names no file

F = TypeVar("F", bound=Callable[..., Any])


size_option = click.option(
    "--size", type=click.Choice(["tiny", "small", "paper"]), envvar="SVP_SIZE", show_envvar=True,
    help="Shipped recipe. Default: tiny, for generated scenes only.",
)  # fmt: skip
STDOUT = "svp.stdout"  # in a click context: where the report goes while the rest goes to stderr


class Root(click.Group):
    """Turns our own errors into one line on stderr and the exit code of their class.

    `--plugin FILE` may stand before or after the command's name.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Move every --plugin to the front, among this group's own options."""
        _require_values(ctx, args)
        own, rest, words = [], [], iter(args)
        for word in words:
            if word == "--":
                rest += [word, *words]
            elif word == "--plugin":
                if (file := next(words, None)) is None:
                    raise click.UsageError("--plugin wants the path of a Python file", ctx)
                own += [word, file]
            else:
                (own if word.startswith("--plugin=") else rest).append(word)
        return super().parse_args(ctx, [*own, *rest])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Raises SystemExit with the code of the error's class."""
        from ..display import shorten
        from ..errors import SvpError, describe
        from ..plugins import plugins

        _want_folder()
        try:
            with _terminable(), _logged(), plugins(ctx.params.pop("plugins", ())):
                _say_rehearsal()
                return super().invoke(ctx)
        except SvpError as error:
            lines = getattr(error, "problems", None) or [describe(error)]
            for line in lines:
                click.echo(f"svp: {line}", err=True)
            if (rest := getattr(error, "found", 0) - len(lines)) > 0:
                click.echo(f"svp: and {rest} more", err=True)
            raise SystemExit(error.exit_code) from None
        except OSError as error:  # the system refuses a file: the user's business, not a bug
            where = error.filename if isinstance(error.filename, str | bytes | os.PathLike) else ""
            full = not where and error.errno in _FULL
            if not (where or full or "temporary directory" in str(error)):
                raise
            cause = error.strerror or str(error)
            if full:
                cause = f"the output could not be written: {cause}"
            named = f"{shorten(os.fsdecode(where), 300)}: " if where else ""
            click.echo(f"svp: {named}{shorten(cause, 300)}", err=True)
            raise SystemExit(1) from None
        except KeyboardInterrupt:
            raise _stopped(signal.SIGINT) from None
        except Terminated:
            raise _stopped(signal.SIGTERM) from None


def _require_values(ctx: click.Context, args: Sequence[str]) -> None:
    """Raise UsageError for an empty value: as a path it would be the current folder.

    No option or argument of any command has a use for one; a shell variable that is not set
    leaves it behind.
    """
    for number, word in enumerate(args):
        name, equals, value = word.partition("=")
        option = word.startswith("--") and "--" not in args[:number]
        if word.strip() and not (option and equals and not value.strip()):
            continue
        after = name if option else args[number - 1] if number else ""
        where = f" after {after}" if after else ""
        raise click.UsageError(
            f"empty value{where}: give one, or leave the option out (is a shell variable not set?)",
            ctx,
        )


def _want_folder() -> None:
    """Refuse to work in a folder that was removed: libraries end the process there, unexplained."""
    try:
        os.getcwd()
    except OSError as error:
        click.echo(f"svp: the current folder: {error.strerror}: change to another", err=True)
        raise SystemExit(1) from None


class Terminated(BaseException):
    """SIGTERM came where no run had begun that would stop by itself; as KeyboardInterrupt."""


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM unwinds like SIGINT: temporary files are removed, the command is printed."""

    def take(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one acts at once
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, take)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Lines(logging.Handler):
    """Log records as plain lines on stderr, above a progress bar where one is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message alone: a printed command stays one line that can be copied."""
        # Not click.echo, which writes past rich's bar: it looks for a binary stream beneath.
        print(record.getMessage(), file=sys.stderr, flush=True)


@contextmanager
def _logged() -> Iterator[None]:
    """The package's progress on stderr, from the first process alone where there are several."""
    log = logging.getLogger(__package__.partition(".")[0])
    before = log.handlers, log.propagate, log.level
    log.handlers, log.propagate = [_Lines()], False
    log.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    try:
        yield
    finally:
        log.handlers, log.propagate = before[:2]
        log.setLevel(before[2])


def _stopped(number: signal.Signals) -> SystemExit:
    """Exit after a signal outside a run's own loop; one message for any number of processes."""
    from ..process import this_command

    if os.environ.get("RANK", "0") == "0":
        click.echo(f"svp: stopped by {number.name}. To resume: {this_command()}", err=True)
    return SystemExit(128 + number)


def _say_rehearsal() -> None:
    """Every command in a rehearsal says so first."""
    if os.environ.get("SVP_REHEARSAL"):
        from ..weights.rehearsal import rehearsal_settings

        if found := rehearsal_settings():
            click.echo(found.line(), err=True)


def several(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Options that several commands share, as one decorator."""

    def apply(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return apply


def either(
    name: str, kind: Any = PATH, *, required: bool = True, help: str | None = None
) -> Callable[[F], F]:
    """One value under two spellings: the argument NAME, or the option `--name`.

    help  of the option; None: it is not shown
    """

    def apply(command: F) -> F:
        @wraps(command)
        def merged(**options: Any) -> Any:
            both = (options.pop(name), options.pop(f"{name}_option"))
            given = [value for value in both if value is not None]
            if len(given) > 1 or (required and not given):
                lead = "" if given else f"no {name.upper()} given: "
                raise click.UsageError(f"{lead}give {name.upper()} once, alone or with --{name}")
            return command(**options, **{name: given[0] if given else None})

        option = click.option(
            f"--{name}", f"{name}_option", type=kind, help=help, hidden=help is None
        )
        return cast(F, click.argument(name, type=kind, required=False)(option(merged)))

    return apply


overrides = click.option("--set", "overrides", multiple=True, metavar="A.B=C",
                         help="Set a field of the recipe; repeatable.")  # fmt: skip


def as_json(command: F) -> F:
    """The option --json. With it stdout holds the report alone: what libraries print, such as
    DeepSpeed when it is loaded, goes to stderr.
    """

    @wraps(command)
    def run(*args: Any, as_json: bool, **options: Any) -> Any:
        if not as_json:
            return command(*args, as_json=False, **options)
        click.get_current_context().meta[STDOUT] = sys.stdout
        with redirect_stdout(sys.stderr):
            return command(*args, as_json=True, **options)

    option = click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
    return cast(F, option(run))


def report(result: Report, as_json: bool) -> None:
    """Print a report and exit with its `exit_code`."""
    if as_json:
        text = json.dumps(finite(result.to_json()), indent=1, sort_keys=True, default=os.fspath)
        click.echo(text, file=click.get_current_context().meta[STDOUT])
    else:
        click.echo("\n".join(result.lines()))
    if result.exit_code:
        raise SystemExit(result.exit_code)


def finite(value: Any) -> Any:
    """`value` with null for NaN and infinity, which JSON has not.

    >>> finite({"a": [1.5, float("nan")]})
    {'a': [1.5, None]}
    """
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
