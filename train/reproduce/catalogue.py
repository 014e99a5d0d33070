"""Every table by name."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from ...pipeline.errors import ConfigError
from ...pipeline.text import show
from .names import ALL, TABLE_NAMES
from .projectors import table1, table2, table6
from .setting import Setting, setting
from .sources import table7, table_c
from .tables import Experiment
from .variants import fig5, table3, table4, table5

EXPERIMENTS: Mapping[str, Callable[[Setting], Experiment]] = {
    "table1": table1,
    "table2": table2,
    "table3": table3,
    "table4": table4,
    "table5": table5,
    "table6": table6,
    "table7": table7,
    "tableC": table_c,
    "fig5": fig5,
}
assert tuple(EXPERIMENTS) == TABLE_NAMES


def experiment(key: str, size: str) -> Experiment:
    """A table at a size, or all of them as one. Raises ConfigError."""
    if key == ALL:
        return _together(setting(size))
    if key not in EXPERIMENTS:
        raise ConfigError(f"table {show(key)}: allowed are {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[key](setting(size))


def _together(at: Setting) -> Experiment:
    """Every row of every table under the name `table: row`; what is one run has one place."""
    tables = [make(at) for make in EXPERIMENTS.values()]
    rows = (replace(row, name=f"{t.key}: {row.name}") for t in tables for row in t.rows)
    return Experiment(ALL, "All tables", tuple(rows))
