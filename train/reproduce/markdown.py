"""A table as Markdown, to stand in the documentation."""

from collections.abc import Sequence

from ..evaluation.paper import PROTOCOL
from .results import TableResult
from .words import bench_lines, claims_of, lines_of, summary

HEAD = ("row", "tokens", "parameters here", "at 1024→4096", "ours", "95 %", "over seeds", "also",
        f"paper, mean of 8 (protocol {PROTOCOL})")  # fmt: skip


def markdown(result: TableResult) -> str:
    """The whole file."""
    changed = f" Changed: {', '.join(result.changes)}." if result.changes else ""
    parts = [
        f"# {result.table}, {result.title} ({result.size})",
        (
            f"{result.metric} in percent. Made by `svp reproduce {result.table} --size {result.size} "
            f"--seeds {result.seeds}`, protocol {result.protocol}, svp {result.svp}, commit {result.commit[:12] or 'none'}.{changed}"
        ),
        _table(HEAD, [_row(line) for line in _lines(result)]),
    ]
    reasons = [f"- **{row.name}** not run: {row.not_run}" for row in result.rows if row.not_run]
    parts += ["\n".join(reasons)] if reasons else []
    if result.claims:
        head = ("the paper's ordering", "paper", "ours (95 %)", "verdict")
        parts.append(_table(head, claims_of(result)))
    if rows := list(bench_lines(result)):
        parts.append(_table(("MLP / SVP", "ours", "paper"), rows))
    parts.append("\n".join(f"- {line}" for line in (*summary(result), *result.notes)))
    parts.append(_table(("row", "seed", "recipe", "cache"), _digests(result)))
    return "\n\n".join(parts) + "\n"


def _lines(result: TableResult) -> Sequence[tuple[str, ...]]:
    return [
        (
            line.name, line.tokens, line.parameters, line.full,
            line.ours or ("not run" if line.not_run else ""),
            line.interval, line.seeds, line.others, line.paper,
        )
        for line in lines_of(result)
    ]  # fmt: skip


def _row(cells: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(cell or "–" for cell in cells)


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


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
