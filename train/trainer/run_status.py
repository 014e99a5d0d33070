"""`status.json` of a run: how far it is, replaced at every logged step, for `svp status RUN`.

It holds times and rates, so equal runs write other ones; metrics.jsonl does not.
"""

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...pipeline.cache.layout import holds_cache
from ...pipeline.display import Report, duration, show
from ...pipeline.errors import CacheError, MissingError
from ...pipeline.precompute.progress import is_at_work
from ...pipeline.store import Place, open_store
from ..recipe import CHECKPOINTS, CONFIG, PREFIX

STATUS = "status.json"
MAX_BYTES, MAX_CONFIG = 1 << 16, 1 << 20
WAIT_S = 2.0  # between two looks
# A run of another machine is lost after so many times the time from one logged step to the next.
LATE = 3
LEAST_S, UNKNOWN_S = 60.0, 900.0
_SHOWN = (  # numbers of a status and how they are printed
    ("loss", "loss {:.4f}"),
    ("gIoU", "gIoU {:.2f} %"),
    ("rate/images", "{:.1f} images/s"),
    ("rate/tokens", "{:,.0f} tokens/s"),
    ("rate/mfu", "MFU {:.1%}"),
    ("gpu/busy", "GPU {:.0%} busy"),
    ("memory/GiB", "{:.1f} GiB"),
)


def is_run(path: Place) -> bool:
    """Whether a run of `svp train` lies at `path`."""
    try:
        open_store(path).read(CONFIG, MAX_CONFIG)
    except (CacheError, MissingError):
        return False
    return True


def newest_run_with(runs: Path, part: str) -> Path | None:
    """The newest run in the folder `runs` that holds `part`, a path or pattern; None: there is none."""
    found = {runs / file.relative_to(runs).parts[0] for file in runs.glob(f"*/{part}")}
    return max(found, key=lambda run: run.stat().st_mtime_ns, default=None)


def newest_run(runs: Path) -> Path:
    """The folder of the newest run in `runs` that has a checkpoint. Raises MissingError."""
    found = newest_run_with(runs, f"{CHECKPOINTS}/{PREFIX}*[0-9]")
    if found is None:
        raise no_model_in(str(runs))
    return found


def no_model_in(runs: str) -> MissingError:
    """That no run in `runs` has a checkpoint, and what there is instead."""
    return MissingError(
        f"no trained model in {show(runs, 300)}: name one with --checkpoint (a run, an export, or "
        "tiny, for scenes of `svp data synth`), take a published one for photographs (`svp predict "
        "--published GLaMM-RefSeg`; `svp eval` and `svp demo` take it too), or train one (`svp train "
        "--from-cache`, `svp quickstart`)"
    )


def no_run(path: Path) -> MissingError:
    """That nothing lies where a run was named."""
    return MissingError(f"{show(str(path), 300)}: no such run folder or checkpoint")


def run_or_newest(path: Place) -> Place:
    """A run or a cache as it is; of a folder of runs the newest."""
    if not isinstance(path, Path) or is_run(path) or holds_cache(path):
        return path
    return newest_run_with(path, CONFIG) or path


def status_record(
    state: str, *, step: int, steps: int, stage: str, numbers: Mapping[str, float], resume: str
) -> dict[str, object]:
    """Content of status.json, of this process and now.

    state    running, finished, stopped (by a signal, to be resumed) or failed
    numbers  by the names of metrics.jsonl and trackers; "eta_s" and "next_s" are the time left and
             the time from one logged step to the next
    resume   the command that resumes the run
    """
    return {
        "state": state,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "pid": os.getpid(),
        "step": step,
        "steps": steps,
        "stage": stage,
        "numbers": dict(numbers),
        "resume": resume,
    }


@dataclass(frozen=True)
class RunReport(Report):
    """Progress of a run.

    state    running, finished, stopped, failed, or lost: "running", but the process is gone (of
             another machine: it has not written for three times as long as usual)
    age_s    seconds since its last word
    """

    run: str
    state: str
    age_s: float
    step: int
    steps: int
    stage: str
    numbers: dict[str, float]
    resume: str

    @property
    def over(self) -> bool:
        """Whether nothing more is to be expected of its process."""
        return self.state != "running"

    @property
    def exit_code(self) -> int:
        """1 if the run ended before its last step."""
        return int(self.state not in ("running", "finished"))

    def summary(self) -> str:
        """The run in one printable line."""
        parts = [f"step {self.step:,}/{self.steps:,}"]
        parts += [form.format(self.numbers[n]) for n, form in _SHOWN if n in self.numbers]
        if self.over:
            parts.append(f"{self.state} {duration(self.age_s)} ago")
        elif "eta_s" in self.numbers:
            parts.append(f"ETA {duration(max(0.0, self.numbers['eta_s'] - self.age_s))}")
        return "  ".join(parts)

    def lines(self) -> list[str]:
        lines = [f"{show(self.run, 300)}: {self.state}, stage {show(self.stage)}", self.summary()]
        if self.exit_code:
            lines.append(f"to resume: {show(self.resume, 2000)}")
        return lines


@dataclass
class RunWatch:
    """Looks at one run."""

    run: Place

    def look(self) -> RunReport:
        """Progress by now. Raises MissingError (the run has written none), CacheError."""
        store = open_store(self.run)
        where = show(store.where(), 300)
        try:
            found = json.loads(store.read(STATUS, MAX_BYTES))
            age = max(0.0, time.time() - datetime.fromisoformat(found["time"]).timestamp())
            numbers = {str(name): float(value) for name, value in found["numbers"].items()}
            state = _lost(found, age, numbers) if found["state"] == "running" else found["state"]
            return RunReport(
                store.where(), str(state), age, int(found["step"]), int(found["steps"]),
                str(found["stage"]), numbers, str(found["resume"]),
            )  # fmt: skip
        except MissingError:
            raise MissingError(
                f"{where}: no {STATUS}: its first step is not done, or another version trained it"
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CacheError(f"{where}/{STATUS}: not a status: {show(str(error), 200)}") from None

    def looks(self) -> Iterator[RunReport]:
        """Reports until the run is over, with a pause after each."""
        while True:
            found = self.look()
            yield found
            if found.over:
                return
            time.sleep(WAIT_S)


def _lost(found: Mapping[str, Any], age: float, numbers: Mapping[str, float]) -> str:
    """The state of a run that was running when it wrote last."""
    if found["host"] == platform.node():
        written = datetime.fromisoformat(found["time"]).timestamp()
        return "running" if is_at_work(found["host"], int(found["pid"]), written) else "lost"
    usual = numbers.get("next_s", UNKNOWN_S / LATE)
    return "running" if age < max(LEAST_S, LATE * usual) else "lost"
