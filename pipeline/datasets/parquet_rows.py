"""Photographs as rows of parquet files, as Hugging Face data sets and others publish them.

A row is named `<file>.parquet/<its own name>#<row>`. Only whole row groups can be decoded, so the
one read last is kept, and rows are read in order: the image ids of a file's rows follow each other.
"""

import errno
import io
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, BinaryIO, Protocol

from ..display import counted, show
from ..errors import DataError, MissingPackageError
from ..io.paths import check_name
from .stored_photos import EndsEarlyError

ROWS = ".parquet"
MAX_ROWS = 1 << 22  # of one file: the bits of an image id that are its row
MAX_GROUP = 2 << 30  # bytes of the photographs of a row group, which are in memory together
GROUPS = 2  # row groups kept
FILES = 8  # files kept open
WINDOW = 1 << 20  # bytes of a request of what is small in a file in object storage
IMAGE_NAMES = ("image", "img", "photo", "picture", "jpg", "jpeg", "png", "image_bytes", "bytes")
LABEL_NAMES = ("path", "file_name", "filename", "image_path", "name", "key")


class Container(Protocol):
    """The file that holds the rows, here or in object storage."""

    @property
    def name(self) -> str: ...

    def examine(self) -> int: ...

    def open_sparse(self, window: int = 0) -> BinaryIO: ...


class RowPhoto:
    """The photograph in row `row` of parquet file `file`; `label` is its own name there.

    Its methods raise OSError if it cannot be read, CacheError if the service that holds it fails.
    """

    def __init__(self, file: Container, label: str, row: int) -> None:
        self.file, self.member, self.row = file, label, row
        self._data: bytes | None = None

    def __str__(self) -> str:
        return f"{self.file}/{self.member}"

    @property
    def suffix(self) -> str:
        """Suffix of the photograph's name, lower case."""
        return os.path.splitext(self.member)[1].lower()

    def examine(self) -> int:
        """Bytes of the photograph."""
        return len(self._bytes())

    def open(self) -> BinaryIO:
        """The photograph's bytes as a file."""
        return io.BytesIO(self._bytes())

    def open_sparse(self, window: int = 0) -> BinaryIO:
        """As `open`, whatever the window."""
        return self.open()

    def _bytes(self) -> bytes:
        if self._data is None:
            self._data = _opened.read(self.file, self.row)
        return self._data


class _Opened:
    """Files and row groups read last, of all threads of a process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._groups: OrderedDict[tuple[str, int], Any] = OrderedDict()

    def forget(self, file: Container) -> None:
        """Keep nothing of a file, which may have been replaced."""
        with self._lock:
            self._files.pop(str(file), None)
            for key in [key for key in self._groups if key[0] == str(file)]:
                del self._groups[key]

    def read(self, file: Container, row: int) -> bytes:
        """Bytes of a row, none if it holds no photograph. Raises OSError."""
        with self._lock, _told():
            found = self._files.get(str(file))
            if found is None:
                found = self._files[str(file)] = _File(file)
                if len(self._files) > FILES:
                    self._files.popitem(last=False)
            group, at = found.place(row)
            values = self._groups.get((str(file), group))
            if values is None:
                values = self._groups[str(file), group] = found.group(group)
                if len(self._groups) > GROUPS:
                    self._groups.popitem(last=False)
            value = values[at].as_py()
        if isinstance(value, dict):
            value = next(iter(value.values()))
        return value or b""


class _File:
    """A parquet file, its column of photographs and the first row of each row group."""

    def __init__(self, file: Container) -> None:
        parquet = _parquet()
        self.open = parquet.ParquetFile(file.open_sparse(WINDOW))
        self.where = str(file)
        self.column, self.label = _columns(self.open.schema_arrow, self.where)
        metadata = self.open.metadata
        self.starts = [0]
        for number in range(metadata.num_row_groups):
            self.starts.append(self.starts[-1] + metadata.row_group(number).num_rows)

    def place(self, row: int) -> tuple[int, int]:
        """Row group of a row, and its place in it. Raises EndsEarlyError."""
        group = bisect_right(self.starts, row) - 1
        if not 0 <= row < self.starts[-1] or not self.column:
            raise EndsEarlyError(f"{self.where}: has no photograph in row {row}")
        return group, row - self.starts[group]

    def group(self, number: int) -> Any:
        """The photographs of a row group, as an arrow column."""
        return self.open.read_row_group(number, columns=[self.column], use_threads=False).column(0)

    def labels(self) -> Iterator[str]:
        """The name of each row: its own where it has one that a photograph may have."""
        row = 0
        if not self.label:
            yield from (f"{row:07d}" for row in range(self.starts[-1]))
            return
        for batch in self.open.iter_batches(columns=[self.label], use_threads=False):
            for value in batch.column(0).to_pylist():
                if isinstance(value, dict):
                    value = next(iter(value.values()))
                yield _usable(value) or f"{row:07d}"
                row += 1

    def check_groups(self) -> None:
        """Raise DataError if a row group holds more than can be in memory."""
        metadata, wanted = self.open.metadata, self.column
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            columns = (group.column(at) for at in range(group.num_columns))
            held = sum(c.total_uncompressed_size for c in columns if c.path_in_schema == wanted)
            if held > MAX_GROUP:
                raise DataError(
                    f"{show(self.where, 300)}: row group {number} holds {held / 1e9:.1f} GB of "
                    f"photographs, at most {MAX_GROUP / 1e9:.1f}: write the file with smaller row "
                    "groups (row_group_size=100)"
                )


_opened = _Opened()


def read_rows(file: Container) -> tuple[list[str], str]:
    """Names of the photographs in a parquet file, relative to its folder, and what is wrong with it.

    No names and no fault: a file without a column of photographs. Raises DataError for a file that
    cannot be used as it is, MissingPackageError without pyarrow, CacheError if the service fails.
    """
    _opened.forget(file)
    _parquet()
    try:
        with _told():
            found = _File(file)
            if not found.column:
                return [], ""
            if found.starts[-1] > MAX_ROWS:
                count = counted(found.starts[-1], "row")
                raise DataError(f"{show(str(file), 300)}: {count}; at most {MAX_ROWS:,}: split it")
            found.check_groups()
            return [f"{file.name}/{label}#{row}" for row, label in enumerate(found.labels())], ""
    except OSError as error:
        return [], f"not readable as parquet: {show(str(error.strerror or error), 120)}"


def _columns(schema: Any, where: str) -> tuple[str, str]:
    """Paths of the columns of photographs and of their names; "" where there is none.

    DataError if several may be the photographs and none has a usual name.
    """
    from pyarrow import types

    def is_one_of(kind: Any, *checks: Callable[[Any], bool]) -> bool:
        if kind is not None and types.is_dictionary(kind):
            kind = kind.value_type
        return kind is not None and any(check(kind) for check in checks)  # None: no such field

    def is_bytes(kind: Any) -> bool:
        return is_one_of(kind, types.is_binary, types.is_large_binary, types.is_binary_view)

    def is_text(kind: Any) -> bool:
        return is_one_of(kind, types.is_string, types.is_large_string, types.is_string_view)

    found: dict[str, tuple[str, str]] = {}
    for field in schema:
        if is_bytes(field.type):
            found[field.name] = field.name, ""
        elif types.is_struct(field.type):  # Hugging Face: image {bytes, path}
            inner = {child.name: child.type for child in field.type}
            if is_bytes(inner.get("bytes")):
                label = f"{field.name}.path" if is_text(inner.get("path")) else ""
                found[field.name] = f"{field.name}.bytes", label
    usual = [name for name in IMAGE_NAMES if name in found]
    if len(found) > 1 and not usual:
        names = ", ".join(show(name, 40) for name in found)
        raise DataError(
            f"{show(where, 300)}: which of the columns {names} holds the photographs? Call it image"
        )
    chosen = (usual or [*found])[0] if found else ""
    if chosen and schema.names.count(chosen) > 1:
        raise DataError(
            f"{show(where, 300)}: several columns are called {show(chosen, 40)}: rename all but one"
        )
    column, label = found.get(chosen, ("", ""))
    texts = {field.name for field in schema if is_text(field.type)}
    return column, label or next((name for name in LABEL_NAMES if name in texts), "")


def _usable(value: object) -> str:
    """A row's own name, "" if it is none that a photograph may have."""
    try:
        return check_name(value, "row").removeprefix("./")
    except DataError:
        return ""


@contextmanager
def _told() -> Iterator[None]:
    """Turn what arrow raises into an OSError; errors of the file itself stay as they are."""
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, UnicodeDecodeError) as error:
        raise OSError(errno.EIO, str(error)) from None
    except OSError as error:
        if type(error) is not OSError or error.strerror:
            raise
        raise OSError(errno.EIO, str(error)) from None  # arrow's own: a text alone


def _parquet() -> Any:
    try:
        from pyarrow import parquet
    except ImportError:
        raise MissingPackageError("pyarrow", "parquet", "reading photographs in parquet") from None
    return parquet
