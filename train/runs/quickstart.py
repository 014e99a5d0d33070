"""`svp quickstart`: scenes, caches, two-stage training, evaluation and a page.

What is there already is kept: scenes and caches by their digests, a finished run by its recipe, an
evaluation by its result file. So a stopped quickstart resumes, and a finished one costs nothing.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

from ...pipeline.datasets.scenes import write_scenes
from ...pipeline.display import Report
from ...pipeline.io.atomic import check_writable
from ...pipeline.precompute.launch import Request, launch, open_request
from ...pipeline.precompute.options import Flags
from ...pipeline.precompute.run import RunOptions
from ...pipeline.weights.rehearsal import few_scenes
from ..cli_defaults import DATA, HELD_OUT, SEED, SPLITS, cache_of
from ..evaluation.summary import EvalReport
from ..options import DataRequest, TrainRequest, resolve_plain
from ..trainer.job import TrainReport
from ..trainer.remote_run import folder_of
from .evaluate import EvalRequest, eval_command, report_command
from .train import train_command

log = logging.getLogger(__name__)

GOAL, MARGIN = 0.60, 0.02  # gIoU of SVP, and how much better MLP on all patches may be
PROJECTORS = ("svp", "mlp")


def _sizes() -> dict[str, int]:
    """Images per split, fewer in a rehearsal."""
    return {split: few_scenes(count) for split, count in SPLITS.items()}


def prepare(split: str, hint: str = "svp quickstart") -> Path:
    """The cache of a split of the quickstart's scenes, made or finished. Raises as `launch`.

    hint  the command that resumes, printed when a run is stopped
    """
    sizes = _sizes()
    write_scenes(DATA, images=sum(sizes.values()), seed=SEED, splits=sizes)
    run = RunOptions(
        workers=os.cpu_count() or 1,
        hint=hint,
    )
    # The mask decoder reads SAM's embeddings, 32 kB per scene. In float32 the fast mode takes half of the
    # exact one's time and changes 10 of 23,661 superpixels of these scenes (docs/superpixels.md).
    flags = Flags(store_sam_embeddings=True, mode="fast")
    request = Request(dataset=str(DATA), split=split, out=cache_of(split), flags=flags, run=run)
    report = launch(request, open_request(request))
    log.info(f"{split}: {report.lines()[0]}")
    return cache_of(split)


@dataclass(frozen=True)
class QuickstartReport(Report):
    """One run and its evaluation on the held-out scenes."""

    train: TrainReport
    evaluation: EvalReport

    @property
    def giou(self) -> float:
        """gIoU, protocol full."""
        return self.evaluation.splits[0].values["gIoU"].value

    def lines(self) -> list[str]:
        said = replace(self.train, next=()).lines()
        return [*said, *self.evaluation.lines(), *(f"next: {c}" for c in self.train.next[1:])]

    def to_json(self) -> dict[str, object]:
        return {"train": self.train.to_json(), "eval": self.evaluation.to_json()}


def quickstart(request: TrainRequest) -> QuickstartReport:
    """Train on the generated scenes by `request` and evaluate; raises what its steps raise."""
    check_writable(folder_of(request.runs))
    resolve_plain(request.size, request.recipe_file, request.flags, request.overrides)
    caches = (prepare("train", request.hint),)
    held_out = (prepare(HELD_OUT, request.hint),)
    data = DataRequest(dataset=str(DATA))
    trained = train_command(replace(request, caches=caches, data=data))
    results = trained.folder / "eval" / f"{HELD_OUT}-full-1.jsonl"
    if results.exists() and not trained.images:
        return QuickstartReport(trained, report_command(results))
    evaluation = EvalRequest(
        data=data, split=HELD_OUT, caches=held_out, checkpoint=trained.folder, device=request.device,
        flags=request.flags,
    )  # fmt: skip
    return QuickstartReport(trained, eval_command(evaluation))


@dataclass(frozen=True)
class Comparison(Report):
    """gIoU by projector and seed; `exit_code` 1 if a target is missed."""

    giou: dict[str, dict[int, float]]
    tokens: dict[str, float]
    seconds: float

    def means(self) -> dict[str, float]:
        """Mean gIoU over seeds, by projector."""
        return {name: mean(found.values()) for name, found in self.giou.items()}

    @property
    def exit_code(self) -> int:
        """0 if both targets are met."""
        means = self.means()
        return int(means["svp"] < GOAL or means["mlp"] - means["svp"] > MARGIN)

    def lines(self) -> list[str]:
        rows = [f"gIoU on {SPLITS[HELD_OUT]} scenes never trained on, protocol full"]
        for name, found in self.giou.items():
            seeds = "  ".join(f"seed {seed} {value:.4f}" for seed, value in found.items())
            tokens = f"{self.tokens[name]:.1f} tokens"
            rows.append(f"{name:4} {tokens:>13}  mean {self.means()[name]:.4f}  ({seeds})")
        means = self.means()
        rows.append(f"SVP {means['svp']:.4f} (target {GOAL})")
        rows.append(f"MLP - SVP {means['mlp'] - means['svp']:+.4f} (target at most {MARGIN})")
        return [*rows, f"training: {self.seconds / 60:.1f} minutes"]

    def to_json(self) -> dict[str, object]:
        return {"gIoU": self.giou, "tokens": self.tokens, "goal": GOAL, "margin": MARGIN}


def compare(seeds: Sequence[int]) -> Comparison:
    """The quickstart with SVP and with MLP on all patches, once per seed."""
    giou: dict[str, dict[int, float]] = {name: {} for name in PROJECTORS}
    tokens, seconds = {}, 0.0
    for name in PROJECTORS:
        for seed in seeds:
            log.info(f"{name}, seed {seed}")
            request = TrainRequest(resume="auto", runs=Path("runs/quickstart"))
            chosen = replace(request.flags, seed=seed, projector=None if name == "svp" else name)
            report = quickstart(replace(request, flags=chosen))
            giou[name][seed] = report.giou
            tokens[name] = report.evaluation.splits[0].tokens[0]
            seconds += report.train.seconds
    return Comparison(giou, tokens, seconds)
