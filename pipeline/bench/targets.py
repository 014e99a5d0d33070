"""Benchmark targets: measured value, target, and the resulting exit code."""

from dataclasses import asdict, dataclass, field

from ..display import Report


@dataclass(frozen=True)
class Target:
    """One figure and its target. `kind` is ">=" or "<="."""

    name: str
    value: float
    kind: str
    target: float
    unit: str = "x"

    @property
    def passed(self) -> bool:
        """Whether the target is met."""
        return self.value >= self.target if self.kind == ">=" else self.value <= self.target

    def line(self) -> str:
        """One printable line."""
        verdict = "pass" if self.passed else "FAIL"
        return f"{verdict:5}  {self.name:52} {self.value:9.2f} {self.unit:5} target {self.kind} {self.target:g}"


@dataclass(kw_only=True)
class TargetReport(Report):
    """Base of reports with targets: targets, notes and exit code."""

    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every target that was measured is met."""
        return all(target.passed for target in self.targets)

    @property
    def exit_code(self) -> int:
        """1 if a target was missed."""
        return 0 if self.passed else 1

    def to_json(self) -> dict[str, object]:
        return asdict(self) | {"passed": self.passed}
