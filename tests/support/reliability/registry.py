"""What a row of docs/reliability.md is, and all rows: `faults`, `cache_faults`, `attacks` hold them."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One fault that svp must survive.

    number   T1 to T39 are those of the reliability specification, C1 to C35 the cache's fault list,
             R3 to R9 and D2, D3 the faults of Ray and Dask clusters, J1 to J6 of processes that join
    fault    what goes wrong
    survives what must hold afterwards
    tests    pytest node ids (file::function); each injects the fault and checks what holds
    note     why there is no test, or what is not covered
    """

    number: str
    fault: str
    survives: str
    tests: tuple[str, ...]
    note: str = ""


def tests(file: str, *names: str) -> tuple[str, ...]:
    """Node ids of functions of one file under tests/, each without its `test_`."""
    return tuple(f"tests/{file}.py::test_{name}" for name in names)


def rows() -> Sequence[Row]:
    """All rows in the order of the table."""
    from support.reliability.attacks import ATTACKS
    from support.reliability.cache_faults import CACHE_FAULTS
    from support.reliability.clusters import CLUSTERS
    from support.reliability.faults import FAULTS
    from support.reliability.fleets import FLEETS

    return (*FAULTS, *CACHE_FAULTS, *CLUSTERS, *FLEETS, *ATTACKS)
