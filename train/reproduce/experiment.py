"""Experiment: a table's rows as recipe overrides, and the paper's claims about them.

A row names everything that is not as in the shipped recipe of the size; a row without changes is
the recipe itself. So rows of different tables that are the same run have the same digest, and are
run once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean

from pydantic import JsonValue

from ...pipeline.display import show
from ...pipeline.errors import ConfigError
from ...pipeline.io.yaml_files import Override
from ..evaluation.paper_numbers import TABLES

Overrides = tuple[Override, ...]
SUPERPIXELS = 40  # per image, the paper's mean


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table.

    train    what is set in the training recipe
    cache    what is set in the precompute recipe
    paper    (table, row) of `evaluation.paper.TABLES` to print beside it
    not_run  why this row cannot be run at this size, or ""
    untrained  evaluated as published, nothing trains: one seed
    decoder  the SAM model whose mask decoder replaces the checkpoint's, "" for none
    superpixels  per image that a plan assumes, or tokens of a projector that counts by the features
    evaluate  options of the projector that an evaluation sets (`svp eval --set`): rows that differ in
              nothing else share a training
    budget   of superpixels that an evaluation takes, as `svp eval --budget`: the caches get an order
    curve    the curve that the row is a point of, "" for none
    """

    name: str
    train: Overrides = ()
    cache: Overrides = ()
    paper: tuple[str, str] | None = None
    not_run: str = ""
    untrained: bool = False
    decoder: str = ""
    superpixels: int = SUPERPIXELS
    evaluate: Overrides = ()
    budget: str = ""
    curve: str = ""

    def seeds(self, asked: int) -> range:
        """Of so many that were asked for; what does not train has no chance in it."""
        return range(1 if self.untrained else asked)

    @property
    def asked(self) -> str:
        """Changes that an evaluation makes to the trained model, "" for none."""
        smaller = [] if self.budget in ("", "auto") else [f"budget={self.budget}"]
        return " ".join([*map(str, self.evaluate), *smaller])

    @property
    def published(self) -> tuple[float | None, ...] | None:
        """The paper's eight numbers in percent, in the order of `evaluation.paper.COLUMNS`."""
        if self.paper is None:
            return None
        table, name = self.paper
        return TABLES[table].row(name).values

    @property
    def published_mean(self) -> float | None:
        """Mean of the paper's numbers; None unless it has all eight."""
        found = [value for value in self.published or () if value is not None]
        return mean(found) if len(found) == 8 else None


@dataclass(frozen=True, slots=True)
class Claim:
    """The paper says that row `better` is above row `worse`."""

    better: str
    worse: str


@dataclass(frozen=True, slots=True)
class Experiment:
    """One table or figure at one size.

    metric  what the table compares, a name of `metrics.NAMES`
    notes   what a reader must know about this size
    bench   also measure time and memory (Table 6)
    """

    key: str
    title: str
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...] = ()
    metric: str = "gIoU"
    notes: tuple[str, ...] = ()
    bench: bool = False

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        assert len(set(names)) == len(names), "row names are unique"
        assert {n for c in self.claims for n in (c.better, c.worse)} <= set(names)

    def row(self, name: str) -> Row:
        """The row called `name`. Raises ConfigError naming those there are."""
        for row in self.rows:
            if row.name == name:
                return row
        names = ", ".join(repr(row.name) for row in self.rows)
        raise ConfigError(f"--row {show(name)}: {self.key} has {names}")


def projector(name: str, options: Mapping[str, JsonValue] | None = None) -> Overrides:
    """Another projector in a training recipe."""
    return (Override("model.projector", {"name": name, "options": dict(options or {})}),)


def svp(**options: JsonValue) -> Overrides:
    """Other options of the recipe's SVP."""
    return tuple(
        Override(f"model.projector.options.{name}", value) for name, value in options.items()
    )


def rich(layers: tuple[int, ...]) -> Overrides:
    """A cache that also holds the CLS token and these layers: one cache for all."""
    return (Override("features.cls", True), Override("features.layers", list(layers)))


def best(winner: str, others: tuple[str, ...]) -> tuple[Claim, ...]:
    """`winner` above each of the others."""
    return tuple(Claim(winner, other) for other in others if other != winner)
