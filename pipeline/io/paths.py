"""Safe paths: names from the user are trusted, names from data files are not.

A name from instances.json, parquet or JSONL is untrusted text; COCO readers that
joined it to a folder have read and written outside it (open-edge-platform/datumaro#2206,
roboflow/supervision#2218). The invariant: what `safe_join` returns lies under the resolved root,
and is a regular file if it exists.
"""

import os
import re
import stat
import unicodedata
from pathlib import Path

from ..display import quote, show
from ..errors import CacheError, DataError

MAX_NAME = 4096  # characters
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def expand(path: str | Path) -> Path:
    """`~` as the user's home; kept as it is where there is no such home, as in many containers."""
    return Path(os.path.expanduser(path))


def user_cache() -> Path | None:
    """$XDG_CACHE_HOME or ~/.cache; None for a user without a home (no HOME, no passwd entry)."""
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given)
    cache = expand("~/.cache")
    return cache if cache.is_absolute() else None


def safe_join(root: Path, name: str, where: str) -> Path:
    """`root / name` with links resolved, or a DataError naming `where` and the broken rule.

    The root itself may be a link. A file that is not there is no error here: the caller that
    opens it says so. Rules: `check_name`, then the target lies under the root and is no folder,
    device, pipe or socket.
    """
    check_name(name, where)
    base = os.path.realpath(root)
    target = os.path.realpath(os.path.join(base, name))
    if os.path.commonpath((base, target)) != base:
        raise _refused(where, name, "leads outside the folder by a link")
    try:
        mode = os.stat(target).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return Path(target)
    except OSError as error:
        raise _refused(where, name, f"cannot be examined ({error.strerror})") from None
    if not stat.S_ISREG(mode):
        raise _refused(where, name, "is not a regular file")
    return Path(target)


def check_name(name: object, where: str) -> str:
    """`name` if its text is a safe relative path; touches no file. DataError otherwise."""
    if not isinstance(name, str):
        raise _refused(where, name, "is not a string")
    for broken, rule in _rules(name):
        if broken:
            raise _refused(where, name, rule)
    return name


def _rules(name: str) -> list[tuple[bool, str]]:
    parts = name.split("/")
    return [
        (not name, "is empty"),
        (len(name) > MAX_NAME, f"is longer than {MAX_NAME} characters"),
        (
            not name.isprintable() and any(_is_control(char) for char in name),
            "holds a control character",
        ),
        ("\\" in name, "holds a backslash"),
        (name.startswith("/"), "is an absolute path"),
        (name.startswith("~"), "starts with ~"),
        (bool(_SCHEME.match(name)), "starts with a drive letter or a URL scheme"),
        (".." in parts, "holds a .. component"),
        (parts[-1] in ("", "."), "names no file"),
    ]


def _is_control(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cs")


def _refused(where: str, name: object, rule: str) -> DataError:
    return DataError(f"{where}: file name {quote(name)} is refused: it {rule}")


def refuse_links(cache: Path, path: Path) -> None:
    """Raise CacheError if a part of `path` below `cache` is a symbolic link."""
    inside = path.relative_to(cache)
    if os.path.realpath(path) != os.path.normpath(os.path.join(os.path.realpath(cache), inside)):
        raise CacheError(f"{show(str(path), 300)}: a symbolic link inside the cache: remove it")
