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
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar, cast

import click
from click.core import ParameterSource

from ..display import Report

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}  # of a write, which names no file

F = TypeVar("F", bound=Callable[..., Any])


class CheckedPath(click.Path):
    """A path that is looked at when the command line is read, so that a wrong one costs no work.

    check  called with the path and the option's name; raises SvpError; None: any path will do.
           Defaults are not checked: not every command uses them.
    """

    def __init__(self, check: Callable[[Path, str], None] | None = None) -> None:
        super().__init__(path_type=Path)
        self.check = check

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path. Raises what the check raises."""
        path = super().convert(value, param, ctx)
        if param is None or not param.name or ctx is None or ctx.parent is None:
            return path  # parsed alone, as a command that a document prints is: not to be run
        given = ctx.get_parameter_source(param.name) is not ParameterSource.DEFAULT
        if self.check is not None and given:
            _refuse_address(Path(os.fsdecode(path)), param.opts[0])
            self.check(Path(os.fsdecode(path)), param.opts[0])
        return path


class Place(CheckedPath):
    """A folder as its path, or an address such as s3://bucket/runs as its store."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """`Path` or `Store`. Raises ConfigError for an address that no store serves."""
        from ..store import FolderStore, is_url, open_store

        if not isinstance(value, str | Path):
            return value  # converted already
        if not is_url(value):
            return super().convert(value, param, ctx)
        store = open_store(value)
        local = isinstance(store, FolderStore)  # file:///data/runs
        return super().convert(store.where(), param, ctx) if local else store


class Photographs(Place):
    """A folder of photographs, a tar or parquet file of them, or an address in object storage,
    which is kept as a path: each process opens it anew.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path. Raises MissingError if none is there, ConfigError for a wrong address."""
        place = super().convert(value, param, ctx)
        return place if isinstance(place, Path) else Path(place.where())


def _require_photographs(path: Path, option: str) -> None:
    if path.suffix not in (".tar", ".parquet") or not path.is_file():
        _require_folder(path, option)


def _refuse_address(path: Path, option: str) -> None:
    from ..display import show
    from ..errors import ConfigError
    from ..store import is_url

    if is_url(path):
        raise ConfigError(
            f"{option} {show(str(path), 300)}: an address of object storage is not for this option: "
            "give a path of this machine"
        )


def _require_folder(path: Path, option: str) -> None:
    """MissingError unless `path` is a folder that is there."""
    from ..display import show
    from ..errors import MissingError

    if not path.is_dir():
        what = "is a file: give the folder" if path.is_file() else "no such folder"
        raise MissingError(f"{option} {show(str(path), 300)}: {what}")


def _require_writable(path: Path, option: str) -> None:
    from ..io.atomic import check_writable

    check_writable(path)


def _require_writable_file(path: Path, option: str) -> None:
    from ..io.atomic import check_writable

    check_writable(path, file=True)


PATH = click.Path(path_type=Path)
FOLDER = CheckedPath(_require_folder)  # to read
NEW_FOLDER = CheckedPath(_require_writable)  # to write, new or not
NEW_FILE = CheckedPath(_require_writable_file)  # to write
PHOTOGRAPHS = Photographs(_require_photographs)
PHOTO_ROOT = Photographs(_require_folder)  # under which a cache's photographs have their names
PLACE = Place()  # to read, in a folder or in object storage
NEW_PLACE = Place(_require_writable)  # to write there
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
