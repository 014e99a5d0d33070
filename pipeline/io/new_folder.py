"""A new folder that appears complete or not at all."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..display import show
from ..errors import DataError
from .atomic import make_folders, writing


def require_new(out: Path) -> None:
    """Raise DataError unless `out` is absent or an empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{show(str(out), 300)} exists and is not empty: choose another name")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `out` at the end, and is deleted after an error.

    Raises DataError as `require_new`, CacheError if the place cannot be written, and OSError where
    the disk is full.
    """
    require_new(out)
    make_folders(out.parent)
    with writing(out):
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield partial
        partial.chmod(0o755)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
