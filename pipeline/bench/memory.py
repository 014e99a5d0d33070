"""Peak memory of a run against its number of images, which must not matter.

Runs `precompute` on generated scenes with the shipped models and a coarse grid of prompts, which
makes it fast without changing what is kept in memory. Measured are one worker's peak (all its rows,
models and libraries) and the growth of the process that drives the run.
"""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..display import Report, counted, size

POINTS = 4  # per side
TOLERANCE = 0.05  # allocators do not return every page

_PROGRAM = """
import json, sys
from svp.pipeline.bench.memory import measure
if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
"""


@dataclass(frozen=True, slots=True)
class MemoryReport(Report):
    """Peak resident memory, bytes, by number of scenes."""

    scenes: tuple[int, int]
    worker: tuple[int, int]
    driver: tuple[int, int]

    @property
    def exit_code(self) -> int:
        """1 if memory grew with the number of images."""
        pairs = (self.worker, self.driver)
        return int(any(many > few * (1 + TOLERANCE) for few, many in pairs))

    def lines(self) -> list[str]:
        rows = zip(self.scenes, self.worker, self.driver, strict=True)
        lines = [
            f"{counted(n, 'scene')}: worker {size(w)}, driver {size(d)} at most" for n, w, d in rows
        ]
        verdict = "GROWS with" if self.exit_code else "does not grow with"
        return [*lines, f"peak memory {verdict} the number of images"]


def run(scenes: tuple[int, int] = (200, 2000)) -> MemoryReport:
    """Both runs, each in a fresh process, one worker of one thread."""
    found = []
    with tempfile.TemporaryDirectory(prefix="svp-memory-") as folder:
        program = Path(folder) / "measure.py"
        program.write_text(_PROGRAM)
        for count in scenes:
            arguments = [str(Path(folder) / f"{kind}-{count}") for kind in ("scenes", "cache")]
            # Only the last line is ours: libraries may print.
            done = subprocess.run(
                [sys.executable, str(program), *arguments, str(count)],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
            worker, driver = done.stdout.splitlines()[-1].strip("[]").split(",")
            found.append((int(worker), int(driver)))
    (few, few_driver), (many, many_driver) = found
    return MemoryReport(scenes, (few, many), (few_driver, many_driver))


def measure(scenes: str, cache: str, count: int) -> tuple[int, int]:
    """(worker's, this process's) peak resident bytes for `count` scenes."""
    from ..datasets import open_dataset
    from ..executors.base import Done, Event
    from ..precompute.planner import Content
    from ..precompute.run import RunOptions, precompute
    from ..process import peak_rss
    from ..recipe import GridConfig, Recipe, SuperpixelConfig
    from ..records import LocalPaths

    peaks = [0]

    def listen(event: Event) -> None:
        if isinstance(event, Done):
            peaks.append(event.report.peak_rss)

    # Scenes are written by another process: making them must not count as ours.
    source = open_dataset(_make(Path(scenes), count))
    pixels = SuperpixelConfig(preset="custom", grid=GridConfig(points_per_side=POINTS))
    options = RunOptions(workers=1)
    precompute(
        Content(source.images),
        Recipe(superpixels=pixels),
        LocalPaths(source.image_root),
        Path(cache),
        options,
        on_event=listen,
        quiet=True,
    )
    return max(peaks), peak_rss()


def _make(scenes: Path, count: int) -> Path:
    code = (
        "import sys; from pathlib import Path; from svp.pipeline.datasets.scenes import write_scenes;"
        "write_scenes(Path(sys.argv[1]), images=int(sys.argv[2]), seed=1)"
    )
    subprocess.run([sys.executable, "-c", code, str(scenes), str(count)], check=True)
    return scenes
