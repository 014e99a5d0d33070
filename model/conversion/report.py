"""Report of a conversion: counts and folded key lists per outcome.

Invariant: loaded + dropped + merged + unknown = tensors of the file.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from ...pipeline.display import counted, fold, show
from ...pipeline.errors import WeightsError


@dataclass(frozen=True, slots=True)
class Part:
    """One loaded group: tensors, numbers in them, and their dtypes in the file."""

    group: str
    tensors: int
    parameters: int
    dtypes: tuple[str, ...]

    def line(self) -> str:
        """`lm  291 tensors  6.74B  bfloat16`, in columns."""
        count = counted(self.tensors, "tensor")
        return f"{self.group:<18}{count:>14}{self.parameters:>16,}  {', '.join(self.dtypes)}"


@dataclass(frozen=True, slots=True)
class ImportReport:
    """The fate of all tensors of a checkpoint.

    total     tensors in the checkpoint
    loaded    per group
    dropped   tensors per named rule
    merged    LoRA matrices that were merged into their linears
    missing   "group: name" of tensors the model needs and the checkpoint lacks
    unknown   names no rule or no part of the model knows
    wrong     "name: has SHAPE, needs SHAPE" and the like
    """

    layout: str
    total: int
    loaded: tuple[Part, ...]
    dropped: dict[str, int] = field(default_factory=dict)
    merged: int = 0
    missing: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not (self.missing or self.unknown or self.wrong)

    def __str__(self) -> str:
        known = sum(part.tensors for part in self.loaded) + self.merged
        gone = sum(self.dropped.values())
        head = f"{known + gone:,}/{counted(self.total, 'tensor')}: {known} loaded, {gone} dropped, "
        rest = ((self.unknown, "unknown"), (self.wrong, "wrong"))
        tail = "".join(f", {len(names)} {kind}" for names, kind in rest if names)
        return f"{head}{len(self.missing)} missing{tail} (layout {self.layout})"

    def lines(self) -> list[str]:
        """The summary, then a line per group and per rule."""
        merged = [f"LoRA: {self.merged} matrices merged into their linears"] * bool(self.merged)
        dropped = [f"dropped {count:>4}  {why}" for why, count in self.dropped.items()]
        return [str(self), *(part.line() for part in self.loaded), *merged, *dropped]

    def to_json(self) -> dict[str, object]:
        """Plain values for a run folder."""
        parts = {p.group: [p.tensors, p.parameters, *p.dtypes] for p in self.loaded}
        return {
            "layout": self.layout,
            "total": self.total,
            "loaded": parts,
            "dropped": dict(self.dropped),
            "merged": self.merged,
        }

    def require(self, where: str) -> None:
        """`WeightsError` that lists every missing, unknown and wrong tensor, unless `ok`."""
        if self.ok:
            return
        kinds = (("missing", self.missing), ("unknown", self.unknown), ("wrong", self.wrong))
        faults = "; ".join(f"{kind}: {', '.join(fold(names))}" for kind, names in kinds if names)
        raise WeightsError(
            f"{show(where, 200)}: {self}. {faults}. A checkpoint that fits only in part gives "
            "random masks: get the complete file, or name its layout"
        )


def count_by(reasons: Iterable[str]) -> dict[str, int]:
    """Count each reason, in order of first appearance."""
    return dict(Counter(reasons))
