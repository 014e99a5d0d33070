"""Rows of parquet files as Python values, some columns of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..display import counted, show
from ..errors import DataError, MissingPackageError

MAX_ROWS = 1_000_000  # of one file


def column_names(file: Path) -> list[str]:
    """Names of the columns of a parquet file; none without pyarrow, or if it cannot be read."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        return []
    if not file.is_file():  # a named pipe would be waited for
        return []
    try:
        return list(parquet.read_schema(file).names)
    except (ArrowException, OSError):
        return []


def rows_of(file: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(place, values of those of the columns that are there) of every row.

    DataError if the file is damaged or too long, MissingPackageError without pyarrow.
    """
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise MissingPackageError("pyarrow", "parquet", "reading parquet") from None
    where = show(str(file), 300)
    if not file.is_file():
        raise DataError(f"{where}: not a regular file")
    try:
        with parquet.ParquetFile(file) as opened:
            if (rows := opened.metadata.num_rows) > MAX_ROWS:
                raise DataError(f"{where}: {counted(rows, 'row')}; at most {MAX_ROWS}")
            wanted = [name for name in columns if name in opened.schema_arrow.names]
            start = 0
            for batch in opened.iter_batches(batch_size=1024, columns=wanted):
                yield from enumerate(batch.to_pylist(), start)
                start += batch.num_rows
    # OverflowError, ValueError: a date, or bytes of a string, that Python has no value for.
    except (ArrowException, OSError, OverflowError, ValueError) as error:
        raise DataError(f"{where}: not readable as parquet: {show(str(error), 200)}") from None
