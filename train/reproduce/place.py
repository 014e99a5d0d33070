"""Where a row with one seed lies: a folder named by what decides it, known without weights."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from ...pipeline.weights.locate import WEIGHT_FILES, search_weights
from ..evaluation.protocols import Protocol
from ..settings import TrainFlags, resolve_train
from .ask import Ask, Column
from .tables import Row


@dataclass(frozen=True)
class Place:
    """Folder of a row and seed, and what its training is asked with."""

    folder: Path
    seed: int
    flags: TrainFlags
    overrides: tuple[str, ...]

    def results(self, column: Column, protocol: Protocol = "full") -> Path:
        """The result file of a split."""
        return self.folder / f"{column.name}{_mark(protocol)}-{column.split}.jsonl"

    def record(self, protocol: Protocol = "full") -> Path:
        """What is known of the cell once it is finished."""
        return self.folder / f"cell{_mark(protocol)}.json"


def place(ask: Ask, row: Row, seed: int, cache: Path) -> Place:
    """Where the cell lies; reads neither data nor weights. Raises ConfigError."""
    flags = TrainFlags(seed=seed, init=ask.init, sam_decoder=decoder_of(row))
    overrides = (*row.train, *ask.changes)
    # Weights count by where they were said to lie: their bytes are compared when they are read.
    recipe, _ = resolve_train(ask.size, None, TrainFlags(seed=0), overrides, weights=False)
    text = json.dumps([recipe.canonical(), _start(ask, row), row.decoder, cache.name])
    name = hashlib.sha256(text.encode()).hexdigest()[:12]
    return Place(ask.runs / f"{name}-seed{seed}", seed, flags, overrides)


def _start(ask: Ask, row: Row) -> str | None:
    return f"published {ask.published}" if row.untrained else ask.start


def decoder_of(row: Row) -> str | None:
    """Weights of the SAM whose mask decoder the row takes; where `svp fetch` puts them if not here."""
    if not row.decoder:
        return None
    found = search_weights(row.decoder)
    return str(found or Path("weights") / WEIGHT_FILES[row.decoder][0])


def _mark(protocol: Protocol) -> str:
    return "" if protocol == "full" else f"-{protocol}"
