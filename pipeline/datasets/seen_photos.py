"""Memory of photographs in object storage: headers and hashes read before, lists of tar files.

One small database per address in the user's cache. An entry is of one version of an object (size
and ETag, from the listing), so a replaced object is read again. Only a saving: without it, or where
it cannot be written, everything is read again; and a worker hashes each photograph anyway before
it uses it. Delete the file at any time.
"""

import hashlib
import json
import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from ..display import show
from ..io.paths import user_cache
from ..store import Stat
from .stored_photos import CHUNK, IN_FLIGHT, Progress, batches, in_flight, root_name

HEADER, XXH3, ARCHIVE = "header", "xxh3", "archive"  # kinds of entries
TOLD = {HEADER: "photographs looked at", XXH3: "photographs hashed", ARCHIVE: "tar files listed"}
WAIT = 30.0  # seconds for another process that writes
LOOKUP = 500  # names in one query

_log = logging.getLogger("svp")
_Result = TypeVar("_Result")


class SeenPhotos:
    """Entries of the photographs at `root`, by kind and name. To be used from one thread."""

    def __init__(self, root: Path) -> None:
        self._where = root_name(root)
        self._file: Path | None = None
        cache = user_cache()
        # What lies in memory has tags of this process alone.
        if cache is not None and not self._where.startswith("memory:"):
            digest = hashlib.sha256(self._where.encode()).hexdigest()[:16]
            self._file = cache / "svp" / "photographs" / f"{digest}.sqlite"

    def get(self, kind: str, names: Mapping[str, Stat]) -> dict[str, Any]:
        """Values of those of `names` whose version has an entry."""

        def look(database: sqlite3.Connection) -> dict[str, Any]:
            found: dict[str, Any] = {}
            for part in batches(names, LOOKUP):
                marks = ",".join("?" * len(part))
                query = (
                    f"SELECT name, version, value FROM seen WHERE kind = ? AND name IN ({marks})"
                )
                for name, version, value in database.execute(query, (kind, *part)):
                    if version == _version(names[name]):
                        found[name] = json.loads(value)
            return found

        return self._run(look, {})

    def put(self, kind: str, entries: Iterable[tuple[str, Stat, object]]) -> None:
        """Add (name, version, value), durably."""
        rows = [(kind, n, _version(stat), json.dumps(value)) for n, stat, value in entries]
        if rows:
            insert = "INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?)"
            self._run(lambda database: database.executemany(insert, rows), None)

    def through(
        self,
        kind: str,
        names: Sequence[str],
        listed: Mapping[str, Stat],
        work: Callable[[str], _Result],
        keep: Callable[[_Result], object | None],
        made: Callable[[Any], _Result],
        *,
        stop: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[str, _Result]]:
        """Results of `work` for all `names`, in order; known ones are not worked out again.

        keep   the JSON value of a result, None: not to be kept
        made   the result of such a value
        """
        tell = Progress()
        size = IN_FLIGHT if kind == ARCHIVE else CHUNK  # hours of work are not lost together
        for number, part in enumerate(batches(names, size)):
            tell(f"{self._where}: {number * size:,} of {len(names):,} {TOLD[kind]}")
            known = self.get(kind, {name: listed[name] for name in part if name in listed})
            new = dict(
                pair
                for pairs in in_flight(work, [n for n in part if n not in known], stop)
                for pair in pairs
            )
            values = ((name, keep(result)) for name, result in new.items() if name in listed)
            self.put(kind, [(n, listed[n], value) for n, value in values if value is not None])
            for name in part:
                yield name, made(known[name]) if name in known else new[name]

    def _run(self, use: Callable[[sqlite3.Connection], _Result], nothing: _Result) -> _Result:
        """The result of `use`; `nothing`, and no further attempt, if the database fails."""
        if self._file is None:
            return nothing
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._file, timeout=WAIT)) as database, database:
                database.execute(
                    "CREATE TABLE IF NOT EXISTS seen (kind TEXT, name TEXT, version TEXT, "
                    "value TEXT, PRIMARY KEY (kind, name)) WITHOUT ROWID"
                )
                return use(database)
        except (sqlite3.Error, OSError, ValueError) as error:
            _log.warning(
                "%s: what is read of it is not remembered in %s: %s",
                show(self._where, 300), show(str(self._file), 300), show(str(error), 200),
            )  # fmt: skip
            self._file = None
            return nothing


def _version(stat: Stat) -> str:
    return f"{stat.bytes} {stat.tag}"
