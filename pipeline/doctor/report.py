"""Report of `svp doctor`: findings about this machine, the recipe's needs and searched paths.

Reads only: no network, no model is built, no checksum of gigabytes. Every finding says what it saw;
one that is not fine also says what to do. Untrusted names are escaped.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..display import Report, counted, escape
from ..errors import SvpError, describe
from ..recipe import Recipe
from ..records import LocalPaths
from ..store import Place
from .machine import devices, memory, packages, python, space
from .weight_search import Need, needed_checkpoint, needed_weights

Status = Literal["ok", "note", "missing", "bad"]
_MARKS: dict[Status, str] = {"ok": "ok", "note": "--", "missing": "MISSING", "bad": "BAD"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. `status`: ok; note (worth knowing); missing (data or weights); bad (broken)."""

    area: str
    name: str
    status: Status
    detail: str

    def line(self) -> str:
        """For a terminal: mark, name, detail."""
        return f"{_MARKS[self.status]:>7}  {escape(self.name)}: {escape(self.detail)}"


@dataclass(frozen=True, slots=True)
class DoctorReport(Report):
    """All findings, in the order they are printed."""

    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """0; 1 if something is broken; 3 if data or weights are missing."""
        found = {finding.status for finding in self.findings}
        return 1 if "bad" in found else 3 if "missing" in found else 0

    def lines(self) -> list[str]:
        """For a terminal, a heading per area."""
        lines: list[str] = []
        area = ""
        for finding in self.findings:
            if finding.area != area:
                area = finding.area
                lines.append(area)
            lines.append(finding.line())
        return lines


def doctor(
    *,
    recipe: Recipe | None = None,
    where: LocalPaths | None = None,
    folder: Path | None = None,
    cache: Place | None = None,
    size: str | None = None,
    parts: Iterable[Finding] = (),
) -> DoctorReport:
    """Look at the machine, the weights `recipe` needs, and the health of `cache`.

    `where` says which files the user gave; `folder` is the disk a cache would be written to; `size`
    is that of the training recipe whose checkpoint or language model is looked for; `parts` is what
    else is told. Never raises for what it finds: a broken part becomes a finding.
    """
    findings = [*_machine(folder or (cache if isinstance(cache, Path) else Path()))]
    if recipe is not None:
        findings += _weights(needed_weights(recipe, where))
    if size is not None:
        findings += _weights(needed_checkpoint(size))
    if cache is not None:
        findings += _cache(cache)
    findings += parts
    return DoctorReport(tuple(findings))


def _machine(folder: Path) -> Iterator[Finding]:
    area = "environment"
    version, fine = python()
    yield Finding(area, "python", "ok" if fine else "bad", version)
    for package in packages():
        yield Finding(area, package.name, package.status, package.detail)
    for name, detail in devices():
        yield Finding("devices", name, "ok", detail)
    for name, detail, enough in (*memory(), *space(folder)):
        yield Finding("memory and disk", name, "ok" if enough else "note", detail)


def _weights(needs: Iterable[Need]) -> Iterator[Finding]:
    for need in needs:
        status: Status = "bad" if need.fault else "ok" if need.found else "missing"
        yield Finding("weights", need.name, status, need.detail)


def _cache(cache: Place) -> Iterator[Finding]:
    """Counts from the plan and the manifests; `svp cache verify` reads the data itself."""
    from ..cache.index import load_rows
    from ..cache.manifest import missing_shards, read_committed
    from ..cache.plan import Plan

    area, name = "cache", str(cache)
    try:
        plan = Plan.load(cache)
        committed = read_committed(cache, plan)
        missing = missing_shards(cache, plan, committed)
        rows = load_rows(cache, plan, committed)
    except SvpError as error:
        yield Finding(area, name, "missing" if error.exit_code == 3 else "bad", describe(error))
        return
    yield Finding(area, name, "ok", f"id {plan.id[:12]}, split {plan.split or '(none)'}")
    done = f"{plan.num_shards - len(missing)} of {plan.num_shards} committed"
    if missing:
        done += f", first missing or damaged {[*missing][:5]}: run the same `svp precompute` again"
    # A shard that a complete cache has lost is damage; a running one has not come so far yet.
    yield Finding(area, "shards", "ok" if not missing else "bad" if rows.complete else "note", done)
    good, bad = int((rows.status == 1).sum()), len(rows.bad)
    counts = f"{len(plan.images)} planned, {good} good, {bad} quarantined"
    if bad:
        reasons = sorted({reason for reason, _ in rows.bad.values()})
        counts += f" ({', '.join(reasons)}): see `svp cache info`, retry with --retry-quarantined"
    yield Finding(area, "images", "note" if bad else "ok", counts)
    if rows.fallback:
        detail = f"{counted(len(rows.fallback), 'image')} got one full-image superpixel"
        yield Finding(area, "fallback", "note", detail)
