"""Budgets of `svp bench launches`: what was counted once may only become less.

`limit` fails the command and its tests when it is exceeded: lower it with the count. `aim` is what a
step or an answer that keeps a large GPU busy needs.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Budget:
    """Largest count that is accepted, and the one to reach."""

    limit: float
    aim: float


BUDGETS: Mapping[str, Budget] = {
    "LLM, operators per layer, training": Budget(95, 110),
    "projector, operators, training": Budget(296, 300),
    "projector, operators, inference": Budget(109, 150),
    "projector not compiled, operators, training": Budget(513, 513),
    "projector not compiled, operators, inference": Budget(205, 205),
    "mask head and losses, operators, training": Budget(375, 380),
    "the same with photographs of 8 sizes": Budget(379, 380),
    "mask head, operators, inference": Budget(120, 160),
    "casts, training": Budget(52, 100),
    "saved for the backward pass, bytes per token and layer": Budget(118_310, 140_000),
    "host syncs, forward": Budget(0, 0),
    "host syncs, predict": Budget(0, 0),
    "host syncs, predict_shared": Budget(0, 0),
    "host syncs, generate, per id": Budget(1, 1),
    "graph breaks, forward": Budget(0, 0),
    "graph breaks, predict": Budget(0, 0),
}
