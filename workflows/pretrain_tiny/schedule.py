"""Learning-rate schedule and checkpoints of the pretraining recipes."""

import math
from pathlib import Path
from typing import Any

import torch


def rate_factor(step: int, *, horizon: int, stop: int, warm: int, decay: int) -> float:
    """Cosine over `horizon` steps after `warm` rising ones; falls to 0 in the last `decay`.

    `stop` <= `horizon` is the number of steps done: a run may end early, and steps before its
    last `decay` are the same as in a longer one.
    """
    wave = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / horizon))
    return min((step + 1) / warm, wave, wave * (stop - step) / decay)


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that a kill leaves the old one or the new one."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def resume(path: Path) -> dict[str, Any] | None:
    """The checkpoint to resume from, if any."""
    return torch.load(path, weights_only=True) if path.exists() else None
