"""Report of `svp data check`, as text and JSON."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ..display import Report, counted, escape
from .problems import LIMIT

Group = dict[str, Any]


@dataclass
class CheckReport(Report):
    """Findings of `check`.

    errors       what stops a run
    left_out     bad records: they cost themselves
    quarantined  images that cannot be read
    notices      what deserves a look
    allowed      how many of the second and third are accepted; None: as many as a run accepts

    The lists stop at 100, the counts do not.
    """

    where: str
    groups: dict[str, Group] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    allowed: int | None = None

    @property
    def found(self) -> int:
        """All problems."""
        return self.counts.total()

    @property
    def usable(self) -> bool:
        """Whether a run can start on it, less what is left out."""
        accepted = self.found if self.allowed is None else self.allowed
        return not self.counts["errors"] and self.found <= accepted

    @property
    def exit_code(self) -> int:
        """0 usable, 1 not."""
        return 0 if self.usable else 1

    def error(self, line: object) -> None:
        """Add what stops a run."""
        self._add("errors", self.errors, line)

    def leave_out(self, line: object) -> None:
        """Add a bad record."""
        self._add("left out", self.left_out, line)

    def quarantine(self, line: object) -> None:
        """Add an image that cannot be read."""
        self._add("quarantined", self.quarantined, line)

    def _add(self, kind: str, lines: list[str], line: object) -> None:
        self.counts[kind] += 1
        if len(lines) < LIMIT:
            lines.append(str(line))

    def to_json(self) -> dict[str, Any]:
        return {
            "path": self.where,
            "usable": self.usable,
            "problems": self.found,
            "errors": self.errors,
            "left_out": self.left_out,
            "quarantined": self.quarantined,
            "notices": self.notices,
            **self.groups,
        }

    def lines(self) -> list[str]:
        """The report as text: one line per figure, then errors and notices."""
        out = [f"{self.where}: {self._verdict()}"]
        for name, group in self.groups.items():
            out += [f"{name}:"] if group else []
            out += [f"  {key}: {_plain(value)}" for key, value in group.items() if value != []]
        if self.errors:
            out.append(f"errors ({self._shown('errors')}):")
            out += [f"  {line}" for line in self.errors]
        for kind, lines in (("left out", self.left_out), ("quarantined", self.quarantined)):
            if lines:
                out.append(f"note: {kind} ({self._shown(kind)}):")
                out += [f"  {line}" for line in lines]
        out += [f"note: {line}" for line in self.notices]
        return [escape(line) for line in out]

    def _verdict(self) -> str:
        less = [
            f"{counted(self.counts[kind], noun)} {kind}"
            for kind, noun in (("left out", "bad record"), ("quarantined", "photograph"))
            if self.counts[kind]
        ]
        errors = [counted(self.counts["errors"], "error")] if self.counts["errors"] else []
        more = ""
        if not (self.usable or errors):
            together = "together " if len(less) > 1 else ""
            more = f", {together}more than --max-failures {self.allowed}"
        return "; ".join(["usable" if self.usable else "NOT usable", *errors, *less]) + more

    def _shown(self, kind: str) -> str:
        found = self.counts[kind]
        return f"{found}, the first {LIMIT} shown" if found > LIMIT else str(found)


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {number}" for name, number in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
