"""Trial folder (one row, one seed): its name, its lock and its elapsed time.

It is named by what decides the trial, known without weights. One process works in it: two would
train twice, and the slower one's results be refused. Elapsed time is that of all attempts together,
in a file beside the result, so the cost of a table is honest.
"""

import fcntl
import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...pipeline.display import show
from ...pipeline.errors import ConfigError, DataError
from ...pipeline.io.atomic import make_folders, write_file, writing
from ...pipeline.io.yaml_files import Override
from ...pipeline.weights.locate import search_weights, weight_files
from ..evaluation.protocols import Protocol
from ..options import TrainFlags, resolve_train
from .experiment import Row
from .request import Column, ReproduceRequest

LOCK = "lock"


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Hold `folder`, made if need be, while open; the lock ends with its process, however it ends.

    Raises ConfigError if another process holds it.
    """
    make_folders(folder)
    with writing(folder / LOCK):
        file = (folder / LOCK).open("ab")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{show(str(folder), 300)}: another process is running it: wait for it, or give "
                "this one other rows (--row)"
            ) from None
        yield


@dataclass(frozen=True)
class Place:
    """Folder of a row and seed, and what its training is asked with.

    asked  what its evaluation changes (`Row.asked`): such rows share the folder's training
    """

    folder: Path
    seed: int
    flags: TrainFlags
    overrides: tuple[Override | str, ...]
    asked: str = ""

    def results(self, column: Column, protocol: Protocol = "full") -> Path:
        """The result file of a split."""
        return self.folder / f"{column.name}{self._mark(protocol)}-{column.split}.jsonl"

    def record(self, protocol: Protocol = "full") -> Path:
        """Record of the trial once it is finished."""
        return self.folder / f"cell{self._mark(protocol)}.json"

    def spent(self, what: str) -> Path:
        """Seconds of `train`, which rows with other evaluations share, or of `eval`."""
        mark = "" if what == "train" else self._mark("full")
        return self.folder / f"{what}{mark}.spent.json"

    def _mark(self, protocol: Protocol) -> str:
        own = f"-{hashlib.sha256(self.asked.encode()).hexdigest()[:8]}" if self.asked else ""
        return own if protocol == "full" else f"{own}-{protocol}"


def place(request: ReproduceRequest, row: Row, seed: int, cache: Path) -> Place:
    """Folder of the trial; reads neither data nor weights. Raises ConfigError."""
    flags = TrainFlags(seed=seed, init=request.init, sam_decoder=decoder_of(row))
    overrides: tuple[Override | str, ...] = (*row.train, *request.changes)
    # Weights count by where they were said to lie: their bytes are compared when they are read.
    recipe, _ = resolve_train(request.size, None, TrainFlags(seed=0), overrides, weights=False)
    start = f"published {request.published}" if row.untrained else request.start
    text = json.dumps([recipe.canonical(), start, row.decoder, cache.name])
    name = hashlib.sha256(text.encode()).hexdigest()[:12]
    return Place(request.runs / f"{name}-seed{seed}", seed, flags, overrides, row.asked)


def decoder_of(row: Row) -> str | None:
    """Weights of the SAM whose mask decoder the row takes; where `svp fetch` puts them if not here."""
    if not row.decoder:
        return None
    found = search_weights(row.decoder)
    return str(found or Path("weights") / weight_files(row.decoder)[0])


@contextmanager
def timed(path: Path) -> Iterator[None]:
    """Add the body's wall time to `path`, also if it ends with an error."""
    began = time.perf_counter()
    try:
        yield
    finally:
        total = elapsed(path) + time.perf_counter() - began
        make_folders(path.parent)
        write_file(path, json.dumps({"seconds": round(total, 3)}).encode(), label="spent")


def elapsed(path: Path) -> float:
    """Seconds noted in `path`, 0 if there is none. Raises DataError if it is damaged."""
    try:
        return float(json.loads(path.read_text("utf-8"))["seconds"])
    except FileNotFoundError:
        return 0.0
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{show(str(path), 300)}: damaged: remove it") from None
