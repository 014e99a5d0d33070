"""Report of a table as text, Markdown and a page; numbers in percent.

The page has our row beside the paper's, orderings with intervals, cost and digests.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import stdev

from markupsafe import Markup

from ...pipeline.browse import page_kit
from ...pipeline.display import counted, duration, markdown_table, shorten
from ..evaluation.paper_numbers import COLUMNS, PROTOCOL, asked_alike
from .comparison.curve_plot import plot, scatter, scattered
from .results import RowResult, TableResult

VERDICTS = {
    "holds": "holds: the interval is above zero",
    "leans": "leans: same sign, the interval includes zero",
    "leans against": "leans against: other sign, the interval includes zero",
    "reversed": "reversed: the interval is below zero",
}
TONES = {"holds": "good", "leans": "none", "leans against": "none", "reversed": ""}  # of a badge


@dataclass(frozen=True, slots=True)
class TableRow:
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


def table_rows(result: TableResult) -> list[TableRow]:
    """Every row of the table."""
    return [_line(row, result.metric) for row in result.rows]


def claim_rows(result: TableResult) -> list[tuple[str, str, str, str]]:
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


def point_rows(result: TableResult) -> list[tuple[str, ...]]:
    """(curve, point, tokens: mean, p95 and most, metric, its interval, GFLOP, ms) of every point."""
    rows = {row.name: row for row in result.rows}
    found: list[tuple[str, ...]] = []
    for curve in result.curves:
        for row in (rows[name] for name in curve.rows):
            line, cell = _line(row, result.metric), row.cells[0]
            found.append((
                curve.name, row.name.removeprefix(f"{curve.name}: "), line.tokens,
                f"{row.tokens_p95:.0f}", f"{row.tokens_most:.0f}", line.ours, line.interval,
                f"{cell.flops / 1e9:.3g}" if cell.flops is not None else "",
                f"{cell.ms:.1f}" if cell.ms is not None else "",
            ))  # fmt: skip
    return found


def curve_rows(result: TableResult) -> list[tuple[str, ...]]:
    """(curve, AUBC, its interval, the table's own curve minus it, verdict)."""
    found: list[tuple[str, ...]] = []
    for curve in result.curves:
        over, more, told = curve.over, "", ""
        if over is not None:
            more = f"{100 * over.value:+.2f} ({100 * over.low:+.2f} to {100 * over.high:+.2f})"
            told = VERDICTS[over.verdict]
        interval = f"{100 * curve.low:.1f} to {100 * curve.high:.1f}"
        found.append((curve.name, f"{100 * curve.value:.2f}", interval, more, told))
    return found


def summary(result: TableResult) -> list[str]:
    """Sentences under the table."""
    agree, pairs = result.agree
    held = sum(claim.verdict == "holds" for claim in result.claims)
    against = sum(claim.value <= 0 for claim in result.claims)
    done = [row for row in result.rows if row.cells]
    cost = "; ".join(f"{name} {duration(s)}" for name, s in result.seconds.items())
    found = [
        (
            f"{len(done):,} of {counted(len(result.rows), 'row')} run, "
            f"{counted(result.seeds, 'seed')} asked; split {', '.join(result.columns)}"
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


def _line(row: RowResult, metric: str) -> TableRow:
    every = [
        score for split in row.scores.values() for name, score in split.items() if name == metric
    ]
    single = every[0] if len(every) == 1 else None
    return TableRow(
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


POINTS = ("curve", "point", "tokens", "p95", "most", "metric", "95 %", "GFLOP", "ms")
CURVES = ("curve", "AUBC", "95 %", "ours minus it (95 %)", "verdict")
HEAD = ("row", "tokens", "parameters here", "at 1024→4096", "ours", "95 %", "over seeds", "also",
        f"paper, mean of 8 (protocol {PROTOCOL})")  # fmt: skip


def markdown(result: TableResult, figure: str = "") -> str:
    """The whole file; `figure` is the name of the curves' plot beside it."""
    changed = f" Changed: {', '.join(result.changes)}." if result.changes else ""
    parts = [
        f"# {result.table}, {result.title} ({result.size})",
        (
            f"{result.metric} in percent. Made by `svp reproduce {result.table} --size {result.size} "
            f"--seeds {result.seeds}`, protocol {result.protocol}, svp {result.svp}, commit {result.commit[:12] or 'none'}.{changed}"
        ),
        markdown_table(HEAD, [tuple(cell or "–" for cell in line) for line in _lines(result)]),
    ]
    if result.curves:
        parts.append(f"![{result.metric} over visual tokens]({figure})")
        parts.append(
            markdown_table(POINTS, [tuple(c or "–" for c in p) for p in point_rows(result)])
        )
        parts.append(
            markdown_table(CURVES, [tuple(c or "–" for c in p) for p in curve_rows(result)])
        )
    reasons = [f"- **{row.name}** not run: {row.not_run}" for row in result.rows if row.not_run]
    parts += ["\n".join(reasons)] if reasons else []
    if result.claims:
        head = ("the paper's ordering", "paper", "ours (95 %)", "verdict")
        parts.append(markdown_table(head, claim_rows(result)))
    if rows := list(bench_lines(result)):
        parts.append(markdown_table(("MLP / SVP", "ours", "paper"), rows))
    parts.append("\n".join(f"- {line}" for line in (*summary(result), *result.notes)))
    parts.append(markdown_table(("row", "seed", "recipe", "cache"), _digests(result)))
    return "\n\n".join(parts) + "\n"


def _lines(result: TableResult) -> Sequence[tuple[str, ...]]:
    return [
        (
            line.name, line.tokens, line.parameters, line.full,
            line.ours or ("not run" if line.not_run else ""),
            line.interval, line.seeds, line.others, line.paper,
        )
        for line in table_rows(result)
    ]  # fmt: skip


def _digests(result: TableResult) -> list[tuple[str, ...]]:
    return [
        (
            row.name,
            str(cell.seed),
            cell.digests.get("recipe", "published")[:12],
            cell.digests.get("cache train", "–")[:12],
        )
        for row in result.rows
        for cell in row.cells
    ]


HERE = Path(__file__).parent


def write_page(result: TableResult, out: Path) -> Path:
    """Write the page into the folder `out`; returns its index.html.

    An earlier page is replaced. ConfigError if `out` holds anything else.
    """
    return page_kit.write_page(out, HERE / "table.html.j2", lambda folder: _values(result))


def _values(result: TableResult) -> dict[str, object]:
    lines = table_rows(result)
    return {
        "result": result,
        "protocols": asked_alike(result.protocol),
        "paper_protocol": PROTOCOL,
        "rows": list(zip(lines, result.rows, strict=True)),
        "claims": list(zip(result.claims, claim_rows(result), strict=True)),
        "tones": TONES,
        "bench": list(bench_lines(result)),
        "plot": Markup(plot(result)),
        "scatter": "" if result.curves else Markup(scatter(result)),
        "scattered": [
            (row.name, f"{row.tokens:.1f}", f"{100 * (row.value or 0.0):.2f}")
            for row in scattered(result)
        ],
        "published": [
            (row.name, *(f"{value:.1f}" if value is not None else "" for value in row.paper))
            for row in result.rows
            if row.paper
        ],
        "points": point_rows(result),
        "curves": curve_rows(result),
        "point_head": POINTS,
        "curve_head": CURVES,
        "summary": summary(result),
        "splits": [f"{dataset} {split}" for dataset, split in COLUMNS],
        "changes": [shorten(change) for change in result.changes],
        "commit": shorten(result.commit) or "not a checkout",
        "libraries": [(shorten(n), shorten(v)) for n, v in sorted(result.libraries.items())],
    }
