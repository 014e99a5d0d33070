"""The words and figures that page, Markdown and terminal share; numbers in percent."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import stdev

from ...pipeline.run.progress import duration
from ..evaluation.paper import asked_alike
from .results import RowResult, TableResult

VERDICTS = {
    "holds": "holds: the interval is above zero",
    "leans": "same sign, the interval includes zero",
    "leans against": "other sign, the interval includes zero",
    "reversed": "reversed: the interval is below zero",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a table, ready to print; "" where there is nothing."""

    name: str
    tokens: str
    parameters: str
    full: str
    ours: str
    interval: str
    seeds: str
    others: str
    paper: str
    cost: str
    not_run: str


def lines_of(result: TableResult) -> list[Line]:
    """Every row of the table."""
    return [_line(row, result.metric) for row in result.rows]


def claims_of(result: TableResult) -> list[tuple[str, str, str, str]]:
    """(ordering, paper's difference, ours with its interval, verdict)."""
    return [
        (
            f"{claim.better} > {claim.worse}",
            f"{claim.paper:+.1f}" if claim.paper is not None else "–",
            f"{100 * claim.value:+.2f} ({100 * claim.low:+.2f} to {100 * claim.high:+.2f})",
            VERDICTS[claim.verdict],
        )
        for claim in result.claims
    ]


def summary(result: TableResult) -> list[str]:
    """Sentences under the table."""
    agree, pairs = result.agree
    held = sum(claim.verdict == "holds" for claim in result.claims)
    against = sum(claim.value <= 0 for claim in result.claims)
    done = [row for row in result.rows if row.cells]
    cost = "; ".join(f"{name} {duration(s)}" for name, s in result.seconds.items())
    found = [
        (
            f"{len(done)} of {len(result.rows)} rows run, {result.seeds} seed(s) asked; "
            f"split {', '.join(result.columns)}"
        ),
    ]
    if any(row.paper for row in result.rows):
        found.append(asked_alike(result.protocol))
    if pairs:
        found.append(f"{agree} of {pairs} pairs of rows are ordered as in the paper")
    if result.claims:
        found.append(
            f"{held} of {len(result.claims)} of the table's claims hold with their interval above "
            f"zero, {against} have the other sign"
        )
    if warm := [
        f"{row.name} {row.warm / row.parameters:.0%}" for row in done if row.warm and row.parameters
    ]:
        found.append(
            f"parameters copied from the shipped MLP projector: {', '.join(warm)}; then all rows "
            "imitated its tokens of pooled patches and their place, before they trained"
        )
    return [*found, f"cost: {duration(sum(result.seconds.values()))} ({cost})"]


def bench_lines(result: TableResult) -> Iterator[tuple[str, str, str]]:
    """(what, our ratio, the paper's) of Table 6."""
    if result.bench is not None:
        for name, ours in result.bench.ratios.items():
            paper = result.bench.paper.get(name)
            yield name, f"{ours:.2f}", f"{paper:.2f}" if paper is not None else "–"


def _line(row: RowResult, metric: str) -> Line:
    every = [
        score for split in row.scores.values() for name, score in split.items() if name == metric
    ]
    single = every[0] if len(every) == 1 else None
    return Line(
        name=row.name,
        tokens=f"{row.tokens:.1f}" if row.tokens is not None else "",
        parameters=_millions(row.parameters),
        full=_millions(row.full),
        ours=f"{100 * row.value:.2f}" if row.value is not None else "",
        interval=f"{100 * single.low:.1f} to {100 * single.high:.1f}" if single else "",
        seeds=_seeds(row),
        others=_others(row, metric),
        paper=f"{row.paper_mean:.1f}" if row.paper_mean is not None else "",
        cost=f"{duration(row.seconds)} + {duration(row.caches)}" if row.cells else "",
        not_run=row.not_run,
    )


def _seeds(row: RowResult) -> str:
    values = [100 * value for value in row.mean.values()]
    if len(values) < 2:
        return ""
    return f"sd {stdev(values):.2f} of {len(values)}"


def _others(row: RowResult, metric: str) -> str:
    """The other headline metric and P@0.5 of the first split."""
    if not row.scores:
        return ""
    split = next(iter(row.scores.values()))
    names = [name for name in ("gIoU", "cIoU", "P@0.5") if name != metric]
    return ", ".join(f"{name} {100 * split[name].value:.1f}" for name in names)


def _millions(count: int | None) -> str:
    if count is None:
        return ""
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e3:.0f} k"
