"""Oracle curves of a cache: what n superpixels of an image allow, by the rule that selects them.

No model is asked. Of the superpixels that a rule keeps the best union is compared with each
sentence's target; the mean over sentences is what a perfect model could reach with so many visual
tokens. The union is the best prefix by (inside) / (outside), as in `upper_bounds`, without its climb.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...pipeline.cache.worth import thresholds
from ...pipeline.display import Report, counted
from ...pipeline.superpixels.budget import RULES, Described
from ...pipeline.superpixels.budget.selector import Selector
from ...pipeline.superpixels.budget.ward_tree import ward_groups
from .upper_bounds import Atoms

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
BUDGETS = (3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
MERGED = "merge tree (Ward)"
GLOBAL = "worth, one threshold"
REST = "worth, the rest as one token"
WHOLE = "any that keeps the target"
DRAWS = 3  # of a random rule


@dataclass(frozen=True)
class Scene:
    """One image: its superpixels as atoms, what rules know of them, and its targets.

    inside  (T,A) pixels of each target in each atom; outside (T,A) the atom's others
    said    (T,) sentences about each target
    """

    found: Described
    member: Bools
    inside: NDArray[np.int64]
    outside: NDArray[np.int64]
    said: NDArray[np.int64]

    @classmethod
    def of(
        cls, found: Described, atoms: Atoms, targets: Sequence[tuple[Bools, Bools | None, int]]
    ) -> "Scene":
        """Of targets (H,W) with the pixels that do not count, or None, and their sentences."""

        def pixels(mask: Bools) -> NDArray[np.int64]:
            return np.bincount(atoms.label[mask], minlength=len(atoms.area))

        inside = np.array([pixels(target) for target, _, _ in targets])
        outside = atoms.area - inside
        for row, (_, ignore, _) in zip(outside, targets, strict=True):
            row -= 0 if ignore is None else pixels(ignore)
        return cls(found, atoms.member, inside, outside, np.array([n for *_, n in targets]))

    def best(self, member: Bools) -> float:
        """Sum over the sentences of the best IoU of a union of `member` (M,A)."""
        whole = self.inside.sum(axis=1)
        inside = self.inside @ member.T.astype(np.int64)  # (T,M)
        outside = self.outside @ member.T.astype(np.int64)
        share = inside / np.maximum(inside + outside, 1)
        order = np.argsort(-share, axis=1, kind="stable")
        union = np.logical_or.accumulate(member[order], axis=1)  # (T,M,A)
        hit = (union * self.inside[:, None]).sum(axis=2)
        false = (union * self.outside[:, None]).sum(axis=2)
        iou = (hit / np.maximum(whole[:, None] + false, 1)).max(axis=1)
        iou[whole == 0] = 1.0  # the empty union
        return float(iou @ self.said)


@dataclass(frozen=True)
class BudgetReport(Report):
    """Figures of `svp cache stats --budget`.

    natural   mean superpixels of the images looked at; `full` the figure with all of them
    budgets   mean visual tokens; `rows` rule -> the figure at each
    fitted    where the worth comes from
    """

    cache: str
    images: int
    sentences: int
    natural: float
    full: float
    budgets: tuple[int, ...]
    rows: Mapping[str, tuple[float, ...]]
    fitted: str

    def lines(self) -> list[str]:
        width = max(map(len, self.rows))
        head = f"{'mean tokens':{width}}" + "".join(f"{n:>7}" for n in self.budgets)
        table = [
            f"{name:{width}}" + "".join(f"{value:>7.3f}" for value in values)
            for name, values in self.rows.items()
        ]
        looked = f"{counted(self.images, 'image')}, {counted(self.sentences, 'sentence')}"
        said = "IoU of the best union of the superpixels kept, mean over sentences"
        return [
            f"cache {self.cache[:12]}: {looked}, {self.natural:.1f} superpixels per image",
            f"{said}; with all of them: {self.full:.3f}",
            f"worth: {self.fitted}",
            head,
            *table,
        ]


def budgets_of(natural: float) -> tuple[int, ...]:
    """The budgets of a table, below a natural mean.

    >>> budgets_of(16.2)
    (3, 4, 6, 8, 12, 16)
    """
    return tuple(n for n in BUDGETS if n < natural)


def curves(scenes: Sequence[Scene], budgets: Sequence[int]) -> dict[str, tuple[float, ...]]:
    """Rule -> the mean best IoU over all sentences at each budget of mean tokens."""
    rows: dict[str, tuple[float, ...]] = {}

    def add(name: str, kept: Callable[[Scene, int], Bools]) -> None:
        rows[name] = tuple(_mean(scenes, [kept(s, n) for s in scenes]) for n in budgets)

    for name, rule in RULES.items():
        if name == "random":
            rows[name] = _random(scenes, budgets)
            continue
        orders = {id(scene): rule(scene.found) for scene in scenes}
        add(name, lambda s, n, orders=orders: s.member[orders[id(s)][:n]])  # type: ignore[misc]
    add(MERGED, _grouped)
    limits = thresholds([scene.found.worth.astype(np.float16) for scene in scenes])
    order = {id(s): RULES["worth x distance"](s.found) for s in scenes}
    add(
        GLOBAL,
        lambda s, n: s.member[Selector(above=limits[n - 1]).kept(order[id(s)], s.found.worth)],
    )
    add(REST, lambda s, n: _with_rest(s.member, order[id(s)], n))
    add(WHOLE, lambda s, n: s.member)
    return rows


def _mean(scenes: Sequence[Scene], kept: Sequence[Bools]) -> float:
    total = sum(scene.best(member) for scene, member in zip(scenes, kept, strict=True))
    return total / sum(int(scene.said.sum()) for scene in scenes)


def _random(scenes: Sequence[Scene], budgets: Sequence[int]) -> tuple[float, ...]:
    rule, drawn = RULES["random"], range(DRAWS)
    rows = []
    for draw in drawn:
        keyed = [
            Described(s.found.means, s.found.area, s.found.worth, DRAWS * number + draw)
            for number, s in enumerate(scenes)
        ]
        rows.append(
            [
                _mean(
                    scenes,
                    [s.member[rule(d)[:n]] for s, d in zip(scenes, keyed, strict=True)],
                )
                for n in budgets
            ]
        )
    return tuple(float(value) for value in np.mean(rows, axis=0))


def _grouped(scene: Scene, n: int) -> Bools:
    label = ward_groups(scene.found.means, n)
    return np.array([scene.member[label == group].any(axis=0) for group in range(label.max() + 1)])


def _with_rest(member: Bools, order: NDArray[np.int64], n: int) -> Bools:
    if len(order) <= n:
        return member
    rest = member[order[n - 1 :]].any(axis=0, keepdims=True)
    return np.concatenate([member[order[: n - 1]], rest])
