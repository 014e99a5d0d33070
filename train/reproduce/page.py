"""A table as a page: our row beside the paper's, orderings with intervals, cost, digests."""

from pathlib import Path

from ... import __version__
from ...pipeline.browse.static import (
    ASSETS,
    INDEX,
    check_replaceable,
    environment,
    inline,
    page_folder,
    policy,
)
from ...pipeline.browse.static import HERE as SHARED
from ...pipeline.text import shorten
from ..evaluation.paper import COLUMNS, PROTOCOL, asked_alike
from .results import TableResult
from .words import bench_lines, claims_of, lines_of, summary

HERE = Path(__file__).parent


def write_page(result: TableResult, out: Path) -> Path:
    """Write the page into the folder `out`; returns its index.html.

    An earlier page is replaced. ConfigError if `out` holds anything else.
    """
    check_replaceable(out)
    with page_folder(out) as folder:
        (folder / ASSETS).mkdir()
        (folder / INDEX).write_text(_render(result), encoding="utf-8")
    return out / INDEX


def _render(result: TableResult) -> str:
    style = inline(SHARED / "style.css") + inline(HERE / "table.css")
    lines = lines_of(result)
    most = max([100 * (row.value or 0.0) for row in result.rows] + [1.0])
    return (
        environment(HERE)
        .get_template("table.html.j2")
        .render(
            version=__version__,
            csp=policy(style),
            style=style,
            result=result,
            protocols=asked_alike(result.protocol),
            paper_protocol=PROTOCOL,
            rows=list(zip(lines, result.rows, strict=True)),
            most=most,
            claims=claims_of(result),
            bench=list(bench_lines(result)),
            summary=summary(result),
            splits=[f"{dataset} {split}" for dataset, split in COLUMNS],
            changes=[shorten(change) for change in result.changes],
            commit=shorten(result.commit) or "not a checkout",
            libraries=[(shorten(n), shorten(v)) for n, v in sorted(result.libraries.items())],
        )
    )
