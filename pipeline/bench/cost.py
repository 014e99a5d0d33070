"""Accuracy of the cost model: predict a local run on generated scenes, then run and compare.

Prediction and run follow each other on the same machine; if the load of the
machine changes in between, the comparison says little.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..datasets import open_dataset
from ..datasets.scenes import write_scenes
from ..display import Report, counted, size
from ..executors.devices import usable_devices
from ..precompute.calibration import calibrate
from ..precompute.cost_model import estimate
from ..precompute.planner import Content, sized_plan
from ..precompute.run import RunOptions, precompute
from ..recipe import Recipe
from ..records import LocalPaths

TOLERANCE = 0.25


@dataclass(frozen=True, slots=True)
class CostReport(Report):
    """Seconds and bytes of one run, predicted and measured; the prediction read `sampled` images."""

    scenes: int
    workers: int
    sampled: int
    predicted_s: float
    measured_s: float
    predicted_bytes: int
    measured_bytes: int

    @property
    def exit_code(self) -> int:
        """1 if the time was missed by more than 25 %."""
        return int(abs(self.predicted_s / self.measured_s - 1) > TOLERANCE)

    def lines(self) -> list[str]:
        time, space = self.predicted_s / self.measured_s, self.predicted_bytes / self.measured_bytes
        disk = f"predicted {size(self.predicted_bytes)}, measured {size(self.measured_bytes)}"
        return [
            (
                f"{counted(self.scenes, 'scene')}, {counted(self.workers, 'worker')}, predicted "
                f"from {counted(self.sampled, 'image')}"
            ),
            f"time: predicted {self.predicted_s:.1f} s, measured {self.measured_s:.1f} s, {time:.2f}x",
            f"disk: {disk}, {space:.3f}x",
        ]


def run(scenes: int = 200, recipe: Recipe | None = None, workers: int | None = None) -> CostReport:
    """Predict and measure a run over `scenes` generated scenes, in a temporary folder."""
    recipe, options = recipe or Recipe(), RunOptions(workers=workers)
    count = len(usable_devices(options))
    with tempfile.TemporaryDirectory(prefix="svp-cost-") as folder:
        source = open_dataset(write_scenes(Path(folder) / "scenes", images=scenes, seed=2))
        content, where = Content(source.images), LocalPaths(source.image_root)
        seen = calibrate(content, recipe, where, options)
        assert seen is not None
        plan = sized_plan(recipe)
        predicted = estimate(plan, len(content.images), calibration=seen, workers=count)
        cache = Path(folder) / "cache"
        done = precompute(content, recipe, where, cache, options, quiet=True)
        files = (path.stat().st_size for path in cache.rglob("*") if path.is_file())
        return CostReport(
            scenes=len(content.images),
            workers=count,
            sampled=seen.images,
            predicted_s=predicted.wall_s,
            measured_s=done.seconds,
            predicted_bytes=predicted.total_bytes,
            measured_bytes=sum(files),
        )
