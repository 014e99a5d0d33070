"""`svp reproduce --rehearse`: a table's rows at the paper's size, to their end, on stand-ins.

The stand-ins are those of `svp rehearse`, in the folder `rehearsal` of the working folder, and so is
everything that is made; the dial that shortens the recipes is in force meanwhile.
"""

import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...pipeline.errors import ConfigError
from ...pipeline.rehearsal import VARIABLE
from ..rehearse.run import stand_ins
from .ask import Ask
from .plan import TinyPlan, reproduce_or_plan
from .price import PricePlan
from .run import TableReport

FOLDER = Path("rehearsal")
IN_A_SHELL = (VARIABLE, "HF_HUB_OFFLINE")
STAND_INS: Mapping[str, Any] = {
    "root": Path("refer_data"),
    "init": "GLaMM-GranD-Pretrained",
    "published": "GLaMM-RefSeg",
}


def rehearsed(
    options: Mapping[str, Any], *, plan_only: bool, say: Callable[[str], None]
) -> TableReport | TinyPlan | PricePlan:
    """As `reproduce_or_plan`, of what the command line says, on stand-ins. Raises ConfigError.

    The same command goes on with a rehearsal that was stopped; one in a new folder begins anew.
    """
    if options["size"] != "paper":
        raise ConfigError("--rehearse goes with --size paper: the tiny models need no stand-ins")
    if given := [f"--{name}" for name in ("root", "init") if options[name] is not None]:
        raise ConfigError(f"--rehearse brings stand-ins for {' and '.join(given)}: leave it out")
    folder = FOLDER.resolve()
    folder.mkdir(exist_ok=True)
    chosen = {**options, **STAND_INS, "seeds": options["seeds"] or 1}
    if chosen["device"] == "auto":
        chosen["device"] = "cpu"
    env = stand_ins(folder, full=False, say=say)
    with _within(folder, env):
        found = reproduce_or_plan(Ask(say=say, **chosen), plan_only=plan_only)
    if isinstance(found, PricePlan):
        return replace(found, opening=_opening(folder, env))
    return found


def _opening(folder: Path, env: Mapping[str, str]) -> tuple[str, ...]:
    """What a plan's commands need to find the stand-ins from any shell."""
    given = (f"export {name}={shlex.quote(env[name])}" for name in IN_A_SHELL if name in env)
    return (f"cd {shlex.quote(str(folder))}", *given)


@contextmanager
def _within(folder: Path, env: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in env}
    os.environ.update(env)
    try:
        with chdir(folder):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
