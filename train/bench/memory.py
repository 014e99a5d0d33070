"""Peak memory of a single case of the comparison.

On a CPU the peak resident memory of a process of its own, its libraries included; on a GPU the
allocator's peak, less what it holds for other cases.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import torch

from ...pipeline.display import show
from ...pipeline.errors import SvpError
from ...pipeline.process import peak_rss
from .presets import Preset
from .runner import Case, Runner

_PROGRAM = "import sys; from svp.train.bench.memory import child; child(sys.argv[1])"


def peak_memory(preset: Preset, case: Case, device: str) -> int:
    """Bytes at the most, on a CPU. Raises SvpError if the process ends early, as for want of it."""
    job = json.dumps({"preset": asdict(preset), "case": asdict(case), "device": device})
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, job],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        raise SvpError(
            f"{case.what} with {case.projector}, {case.where}, did not finish: {show(last, 200)}. "
            "If memory ran out, take fewer --layers"
        )
    return int(done.stdout.splitlines()[-1])  # libraries may print before


@contextmanager
def device_peak(runner: Runner, case: Case, into: dict[Case, int]) -> Iterator[None]:
    """While open, `case` runs on a GPU; its peak goes `into`. Elsewhere it does nothing."""
    if runner.device.type != "cuda":
        yield
        return
    torch.cuda.reset_peak_memory_stats(runner.device)
    yield
    into[case] = torch.cuda.max_memory_allocated(runner.device) - runner.foreign(case)


def child(job: str) -> None:
    """Run one case once and print its peak."""
    told = json.loads(job)
    case, preset = Case(**told["case"]), Preset(**told["preset"])
    torch.set_num_threads(1)
    runner = Runner(preset, [case.projector], told["device"])
    if case.stage:
        runner.enter(case.stage)
    else:
        runner.answer()
    runner.run(case, lambda part: None)
    print(peak_rss())
