"""Goals of a bench: what was measured, what was wanted, and the exit code that follows."""

from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Goal:
    """One figure and its goal. `kind` is ">=" or "<="."""

    name: str
    value: float
    kind: str
    goal: float
    unit: str = "x"

    @property
    def passed(self) -> bool:
        """Whether the goal is met."""
        return self.value >= self.goal if self.kind == ">=" else self.value <= self.goal

    def line(self) -> str:
        """One printable line."""
        verdict = "pass" if self.passed else "SHORT"
        return f"{verdict:5}  {self.name:52} {self.value:9.2f} {self.unit:5} goal {self.kind} {self.goal:g}"


@dataclass(kw_only=True)
class GoalReport:
    """What benches with goals share: goals, notes, and what follows from them."""

    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every goal that was measured is met."""
        return all(goal.passed for goal in self.goals)

    @property
    def exit_code(self) -> int:
        """1 if a goal was missed."""
        return 0 if self.passed else 1

    def to_json(self) -> dict[str, object]:
        """Plain values for --json."""
        return asdict(self) | {"passed": self.passed}
