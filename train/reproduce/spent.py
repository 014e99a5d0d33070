"""How long something took, all attempts together: a small file beside what was made.

A stopped run that goes on adds to its file, so the cost of a table is honest.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...pipeline.errors import DataError
from ...pipeline.store.atomic import make_folders, write_file
from ...pipeline.text import show


@contextmanager
def spending(path: Path) -> Iterator[None]:
    """Add the body's wall time to `path`, also if it ends with an error."""
    began = time.perf_counter()
    try:
        yield
    finally:
        total = spent(path) + time.perf_counter() - began
        make_folders(path.parent)
        write_file(path, json.dumps({"seconds": round(total, 3)}).encode(), label="spent")


def spent(path: Path) -> float:
    """Seconds noted in `path`, 0 if there is none. Raises DataError if it is damaged."""
    try:
        return float(json.loads(path.read_text("utf-8"))["seconds"])
    except FileNotFoundError:
        return 0.0
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{show(str(path), 300)}: damaged: remove it") from None
