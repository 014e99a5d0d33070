"""Types of the paths and addresses that commands take, each looked at when the line is read."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource


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
