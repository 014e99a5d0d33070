"""The runs of a folder, each with its held-out score, for `svp status RUNS`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...pipeline.display import Report, counted, shorten
from ...pipeline.errors import SvpError
from ...pipeline.weights.file_checks import read_json
from ..recipe import CHECKPOINTS, CONFIG, PREFIX
from .run_status import RunReport, RunWatch

METRICS = ("gIoU", "cIoU")
MAX_STATE = 16 << 20


@dataclass(frozen=True)
class ListedRun:
    """One run of a folder.

    state   as `RunReport`; "" of a run that has written no status
    scores  of its newest checkpoint on held-out images, fractions by metric; none without --validate
    """

    name: str
    state: str
    step: int
    steps: int
    scores: dict[str, float]


@dataclass(frozen=True)
class RunsReport(Report):
    """The newest run of a folder, and all of them."""

    newest: RunReport
    runs: Sequence[ListedRun]

    @property
    def exit_code(self) -> int:
        """That of the newest run."""
        return self.newest.exit_code

    def lines(self) -> list[str]:
        width = max(len(run.name) for run in self.runs)
        head = f"{'run':{width}}  {'state':8}  {'step':>15}" + "".join(f"{m:>8}" for m in METRICS)
        rows = []
        for run in self.runs:
            scores = (
                f"{100 * run.scores[m]:8.2f}" if m in run.scores else f"{'-':>8}" for m in METRICS
            )
            step = f"{run.step:,}/{run.steps:,}"
            rows.append(f"{run.name:{width}}  {run.state or '-':8}  {step:>15}{''.join(scores)}")
        said = (
            f"{counted(len(self.runs), 'run')}, by gIoU on held-out images (--validate), percent:"
        )
        return [*self.newest.lines(), said, head, *rows]

    def to_json(self) -> dict[str, object]:
        return {**self.newest.to_json(), "runs": [vars(run) for run in self.runs]}


def list_runs(runs: Path) -> list[ListedRun]:
    """The runs in the folder `runs`, the best held-out gIoU first, those without one last."""
    folders = sorted({file.parent for file in runs.glob(f"*/{CONFIG}")}, reverse=True)
    listed = [_listed(folder) for folder in folders]
    return sorted(listed, key=lambda run: -run.scores.get(METRICS[0], -1.0))


def _listed(run: Path) -> ListedRun:
    try:
        found = RunWatch(run).look()
        state, step, steps = found.state, found.step, found.steps
    except SvpError:  # its first step is not done, or another version trained it
        state, step, steps = "", 0, 0
    return ListedRun(shorten(run.name, 60), state, step, steps, _scores(run))


def _scores(run: Path) -> dict[str, float]:
    """Of the newest checkpoint that has some."""
    for state in sorted(run.glob(f"{CHECKPOINTS}/{PREFIX}*[0-9]/state.json"), reverse=True):
        try:
            scores = read_json(state, MAX_STATE).get("scores")
        except SvpError:
            continue
        if isinstance(scores, dict) and scores:
            return {m: float(scores[m]) for m in METRICS if isinstance(scores.get(m), int | float)}
    return {}
