"""`svp bench scale`: estimated cost of SA-1B and of a billion images, from measurements.

Bytes and files follow from the plan, GPU-hours from the cost model, record sizes and times from
`scale_probe`. Failures are simulated: each takes one node, whose workers lose the shard under way
and start again; nothing else is lost, because a shard is committed by itself. Opening a cache costs
time and memory by the image, so large sets are split into caches of `PART` images; every figure
that follows is O(shards).
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..cache.layers import FEATURES, POOLED, SAM
from ..cache.plan import MAX_IMAGES, Plan
from ..display import counted, size
from ..fetch.sam_specs import SAMS
from ..precompute.cost_model import DEVICES, Estimate, estimate, seconds_per_image
from ..precompute.planner import sized_plan
from ..recipe import Recipe
from .scale_probe import Opening, Scanning, opening, opening_whole, scanning
from .targets import Target, TargetReport

# Llama Team, "The Llama 3 Herd of Models" (2024), section 3.3.4: 419 unexpected interruptions in
# 54 days on 16,384 H100; most of them take one node.
FAILURES_PER_GPU_HOUR = 419 / (54 * 24 * 16_384)
NODE_GPUS = 8
RESTART_S = 90.0  # a worker's process, its libraries and its models, from a shared file system


@dataclass(frozen=True, slots=True)
class Failures:
    """Effect of node failures on a run on `gpus` GPUs.

    per_day    failures a day             total     mean failures of the whole run
    lost_s     GPU-seconds lost per failure, mean: half a shard and a restart for each GPU of a node
    worst_s    the same, 99th percentile
    share      of all GPU-hours that is lost (mean over the trials)
    """

    gpus: int
    days: float
    per_day: float
    total: float
    lost_s: float
    worst_s: float
    share: float


def simulate(
    gpu_hours: float,
    shard_s: float,
    gpus: int,
    *,
    rate: float = FAILURES_PER_GPU_HOUR,
    node: int = NODE_GPUS,
    restart_s: float = RESTART_S,
    trials: int = 200,
    seed: int = 0,
) -> Failures:
    """Trials of one run of `gpu_hours` whose shards take `shard_s` seconds of one GPU.

    Failures arrive as a Poisson process of `rate` per GPU-hour; each hits its workers at a uniform
    place of their shards.
    """
    dice = np.random.default_rng(seed)
    node = min(node, gpus)
    counts = dice.poisson(rate * gpu_hours, trials)
    # The loss of one failure, drawn often enough for its 99th percentile.
    losses = (dice.uniform(0, shard_s, (2000, node)) + restart_s).sum(1)
    total = float(counts.mean())
    days = gpu_hours / gpus / 24
    return Failures(
        gpus=gpus,
        days=days,
        per_day=rate * gpus * 24,
        total=total,
        lost_s=float(losses.mean()),
        worst_s=float(np.percentile(losses, 99)),
        share=total * float(losses.mean()) / 3600 / gpu_hours,
    )


PART = 1_000_000  # images of one cache; 15,625 shards
SETS = {"SA-1B": 11_185_362, "one billion images": 1_000_000_000}
GPUS = {"SA-1B": 64, "one billion images": 1024}
OPEN_GOAL_S = 1.0  # a complete cache of 100,000 shards
PROBE = 100_000  # images, and shards of one image each, of that cache
OBJECTS_PER_LISTING = 1000  # names that one request of an object store's API returns


@dataclass(frozen=True)
class Scale:
    """One data set. Sizes in bytes, times in seconds; `caches` are those of at most `PART` images.

    open_s      one of its caches           all_open_s   all of them, one after another
    resume_s    the scan of all shards before a rerun
    inodes      files and folders
    listings    requests to list all files in an object store (not needed by any command)
    """

    name: str
    caches: int
    estimate: Estimate
    plan_bytes: int
    index_bytes: int
    open_s: float
    all_open_s: float
    resume_s: float
    check_s: float
    leftovers_s: float
    inodes: int
    listings: int
    failures: Failures

    def lines(self) -> list[str]:
        """For people."""
        e, f = self.estimate, self.failures
        return [
            (
                f"{self.name}: {counted(e.images, 'image')} in {counted(self.caches, 'cache')}, "
                f"{counted(e.shards, 'shard')}, "
                f"{counted(e.files, 'file')} ({counted(self.inodes, 'inode')}), "
                f"{size(e.total_bytes)}"
            ),
            f"  {e.worker_hours:,.0f} hours of {e.device}: {f.days:.1f} days on {f.gpus:,} GPUs",
            (
                f"  records of one cache: plan {size(self.plan_bytes)}, index {size(self.index_bytes)};"
                f" opens in {self.open_s:.2f} s, all in {self.all_open_s:,.0f} s"
            ),
            (
                f"  before a rerun: scan of all shards {self.resume_s:,.0f} s, walk for leftovers "
                f"{self.leftovers_s:,.0f} s; quick check {self.check_s:,.0f} s, on one core"
            ),
            (
                f"  listing it in an object store: {counted(self.listings, 'request')} (no command "
                "lists)"
            ),
            (
                f"  {f.per_day:.2f} failures a day, {f.lost_s / 60:.1f} GPU-minutes lost in each "
                f"(99 %: {f.worst_s / 60:.1f}), {100 * f.share:.4f} % of all"
            ),
        ]


# Forms of a cache by the options of `svp precompute`: `features.stored`, `sam_stored` ("": no embedding,
# so for other code than `svp train`).
FORMS = {
    "float16": ("float16", "float16"),
    "--features int8": ("int8", "float16"),
    "--sam-stored int8": ("float16", "int8"),
    "--features int8 --sam-stored int8": ("int8", "int8"),
    "--features mean+int4 --sam-stored int8": ("mean+int4", "int8"),
    "--thin": ("mean", "int8"),
    "--thin --no-store-sam-embeddings": ("mean", ""),
}


@dataclass(frozen=True)
class Form:
    """Bytes of caches whose features and SAM embeddings are stored in one form.

    features, sam  of one image
    million        of a million images, everything included; `sets` those of each data set
    """

    options: str
    features: int
    sam: int
    million: int
    sets: Mapping[str, int]

    def line(self, exact: "Form") -> str:
        """For people, against float16."""
        whole = ", ".join(f"{name} {size(count)}" for name, count in self.sets.items())
        return (
            f"  {self.options}: features {size(self.features)} an image "
            f"({exact.features / self.features:.1f}x smaller), SAM {size(self.sam)}; a million "
            f"images {size(self.million)} ({exact.million / self.million:.1f}x smaller), {whole}"
        )


def form_of(options: str, plan: Plan) -> Form:
    """The form of `FORMS`, by the cost model, of caches that are otherwise as `plan`."""
    stored, sam = FORMS[options]
    changed: dict[str, object] = {"store_sam_embeddings": bool(sam), "sam_stored": sam or "float16"}
    changed["features"] = plan.recipe.features.model_copy(update={"stored": stored})
    recipe = plan.recipe.model_copy(update=changed)
    embedding = SAMS[recipe.superpixels.model].embedding if sam else None
    plan = replace(plan, recipe=recipe, sam=embedding)
    each = estimate(plan, PART).bytes

    def of(*kinds: str) -> int:
        specs = [spec for layer in plan.layers if layer.kind in kinds for spec in layer.arrays]
        return sum(each[spec.name] for spec in specs) // PART

    sets = {name: estimate(plan, images).total_bytes for name, images in SETS.items()}
    return Form(options, of(POOLED, FEATURES), of(SAM), sum(each.values()), sets)


@dataclass(kw_only=True)
class ScaleReport(TargetReport):
    """All sets, and what was measured for them."""

    device: str
    per_image_s: float
    per_shard_s: float
    openings: Sequence[Opening]
    scanning: Scanning
    sets: list[Scale] = field(default_factory=list)
    forms: list[Form] = field(default_factory=list)

    def lines(self) -> list[str]:
        measured = [
            f"opened {counted(o.images, 'image')} in {counted(o.shards, 'shard')} in "
            f"{o.seconds:.3f} s (plan {size(o.plan_bytes)}, index {size(o.index_bytes)})"
            for o in self.openings
        ]
        fit = (
            f"{1e6 * self.per_image_s:.2f} us per image, {1e6 * self.per_shard_s:.2f} us per shard"
        )
        s = self.scanning
        scan = (
            f"per shard: resume {1e3 * s.resume_s:.2f} ms, quick check {1e3 * s.check_s:.2f} ms, "
            f"leftovers {1e3 * s.leftovers_s:.2f} ms, {s.files:.0f} files, {s.folders:.0f} folders"
        )
        planned = [line for one in self.sets for line in one.lines()]
        planned += ["bytes by form:", *(one.line(self.forms[0]) for one in self.forms)]
        return [
            *measured, f"opening: {fit}", scan, *planned,
            *(target.line() for target in self.targets), *self.notes,
        ]  # fmt: skip


def run(recipe: Recipe, device: str = "a100", probe: int = PROBE, whole: int = 0) -> ScaleReport:
    """Measure the records here and plan `SETS` under `recipe` on `device` of `cost.DEVICES`.

    probe  images of the largest cache of records that is made (100 bytes each on the disk)
    whole  images of one more, which is opened in a process of its own; 0: none
    """
    plan = sized_plan(recipe)
    with tempfile.TemporaryDirectory(prefix="svp-scale-") as made:
        folder = Path(made)
        many = opening(folder / "many", probe, 1)
        few = opening(folder / "few", probe, plan.shard_size)
        scan = scanning(folder / "scan", shards=min(64, probe))
        opened = [opening_whole(folder / "whole", whole).line()] if whole else []
    per_shard = max(0.0, (many.seconds - few.seconds) / (many.shards - few.shards))
    per_image = max(0.0, few.seconds - few.shards * per_shard) / few.images
    report = ScaleReport(
        device=DEVICES[device].name,
        per_image_s=per_image,
        per_shard_s=per_shard,
        openings=(many, few),
        scanning=scan,
        notes=[
            *opened,
            f"superpixels: {recipe.superpixels.mode}, {recipe.superpixels.dtype}",
            f"one plan holds at most {MAX_IMAGES:,} images; caches of {PART:,} are advised",
        ],
    )
    report.targets.append(
        Target(
            f"open a cache of {counted(many.shards, 'shard')}", many.seconds, "<=", OPEN_GOAL_S, "s"
        )
    )
    report.sets = [_scale(name, plan, device, report) for name in SETS]
    report.forms = [form_of(options, plan) for options in FORMS]
    return report


def _scale(name: str, plan: Plan, device: str, report: ScaleReport) -> Scale:
    images, gpus, scan = SETS[name], GPUS[name], report.scanning
    found = estimate(plan, images, device=device, workers=gpus)
    part = min(PART, images)
    caches = -(-images // PART)
    few = report.openings[1]
    open_s = part * report.per_image_s + part / plan.shard_size * report.per_shard_s
    shard_s = plan.shard_size * seconds_per_image(plan, device)
    return Scale(
        name=name,
        caches=caches,
        estimate=found,
        plan_bytes=round(few.plan_bytes / few.images * part),
        index_bytes=round(few.index_bytes / few.images * part),
        open_s=open_s,
        all_open_s=images * report.per_image_s + found.shards * report.per_shard_s,
        resume_s=found.shards * scan.resume_s,
        check_s=found.shards * scan.check_s,
        leftovers_s=found.shards * scan.leftovers_s,
        inodes=round(found.shards * (scan.files + scan.folders)),
        listings=-(-found.files // OBJECTS_PER_LISTING),
        failures=simulate(found.worker_hours, shard_s, gpus),
    )
