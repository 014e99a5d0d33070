"""Partial results of an evaluation, saved after every batch.

A full disk, a stop or a crash at the end costs one batch, not the evaluation: the same command reads
the saved rows and resumes. A part belongs to one evaluation, by a digest of all that decides its rows
and of their distribution to processes. One line per batch; a truncated line is computed again.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from ...pipeline.io.atomic import make_folders, writing
from ...pipeline.io.json_files import canonical
from ..distributed import rank_and_world
from .protocols import Unit
from .results import Header, Row


class Parts:
    """Finished batches of this process, in a hidden folder under `home`.

    done  number of a batch -> its rows

    Raises CacheError if nothing can be written there.
    """

    def __init__(self, home: Path, header: Header, units: Sequence[Unit], batch: int) -> None:
        rank, world = rank_and_world()
        name = _digest(header, units, batch, world)
        self.folder = home / f".parts-{name[:16]}"
        self._path = self.folder / f"{rank}-of-{world}.jsonl"
        make_folders(self.folder)
        self.done = _read(self._path)

    def add(self, number: int, rows: Sequence[Row]) -> None:
        """Keep the rows of a batch. Raises CacheError; what was kept before stays."""
        line = canonical([number, [row.model_dump(mode="json") for row in rows]])
        with writing(self._path), self._path.open("ab") as file:
            file.write(line)

    def remove(self) -> None:
        """Remove the parts of all processes, once the result file has the rows."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _digest(header: Header, units: Sequence[Unit], batch: int, world: int) -> str:
    found = hashlib.sha256(canonical([header.model_dump(mode="json"), batch, world]))
    for unit in units:
        asked = [one.sent_id for one in unit.asked]
        found.update(repr((unit.repeat, unit.look, asked, unit.turns)).encode())
    return found.hexdigest()


def _read(path: Path) -> dict[int, list[Row]]:
    """The whole batches in a part; a cut end is cut off, so that more can be added."""
    done: dict[int, list[Row]] = {}
    if not path.is_file():
        return done
    good = 0
    with path.open("rb") as file:
        for line in file:
            try:
                number, rows = json.loads(line)
                made = [Row.model_validate_json(json.dumps(row)) for row in rows]
            except (ValueError, TypeError, ValidationError):
                break
            if not line.endswith(b"\n"):
                break
            done[int(number)] = made
            good += len(line)
    with writing(path), path.open("r+b") as file:
        file.truncate(good)
    return done
