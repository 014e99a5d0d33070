"""Estimate of a table at the paper's size: commands, GPU-hours, disk, memory.

Printed, the plan is a shell script: everything but the commands is a comment. Images are counted
where the data is, else the published counts stand in (an upper bound: the sets share photographs).
Time comes from operation counts and a stated share of the peak; nothing was measured. No weights
are read.
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from ...pipeline.datasets import open_dataset
from ...pipeline.datasets.published_counts import COUNTS
from ...pipeline.display import Report, counted, size
from ...pipeline.errors import SvpError
from ...pipeline.io.yaml_files import Override
from ...pipeline.precompute.cost_model import Estimate, estimate
from ...pipeline.precompute.launch import priced_plan
from ..data.cache_fit import outline_projector
from ..estimates.gpus import GPUS, Gpu
from ..estimates.hours import GRID, TEXT, Reference, projector_flops
from ..estimates.sizing import SHARE
from ..evaluation.paper_numbers import SPLIT_BY
from ..options import TrainFlags, resolve_train
from .caches import Caches, splits_of
from .collect import CHANNELS, LLM
from .commands import precompute_words, row_commands, training_commands
from .experiment import SUPERPIXELS, Experiment, Overrides, Row
from .request import Data, ReproduceRequest


@dataclass(frozen=True, slots=True)
class RowPrice:
    """One row on one GPU.

    hours   of training one seed; memory  bytes of one training process
    tokens  visual tokens per image that were assumed
    fits    whether the memory is that of the GPU asked for, at most
    commands  training and evaluation of every seed
    same_as   an earlier row that is the same run, or ""
    trained_by  an earlier row that trains the same model, which this one evaluates otherwise, or ""
    micro_batch, recompute  images per pass, and whether layers are recomputed, on that GPU
    """

    name: str
    not_run: str
    tokens: int
    parameters: int
    hours: float
    memory: int
    fits: bool
    commands: tuple[str, ...]
    same_as: str = ""
    trained_by: str = ""
    micro_batch: int = 0
    recompute: bool = False


@dataclass(frozen=True, slots=True)
class CachePrice:
    """One cache: its command and its estimate; `counted` images, or an upper bound.

    cost   beside the caches before it, whose layers and rows are taken over
    alone  of this cache made by itself
    sam    what prompts SAM: the recipe of the superpixels, "" for none
    cut    photographs whose superpixels are made for it, named apart
    """

    command: str
    cost: Estimate
    counted: bool
    alone: Estimate
    sam: str
    cut: frozenset[str]


@dataclass(frozen=True)
class PricePlan(Report):
    """The price of a table at the paper's size; `missing` says what is not here.

    opening  commands that a shell needs before the others
    """

    table: str
    seeds: int
    gpu: Gpu
    rows: tuple[RowPrice, ...]
    caches: tuple[CachePrice, ...]
    missing: tuple[str, ...]
    asked: bool
    opening: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 if only the plan was requested, 2 if the run was and cannot start."""
        return 0 if self.asked else 2

    @property
    def runs(self) -> list[RowPrice]:
        """The rows that train, each run once."""
        return [row for row in self.rows if row.tokens and not row.same_as + row.trained_by]

    @property
    def hours(self) -> dict[str, float]:
        """GPU-hours by part."""
        trained = self.seeds * sum(row.hours for row in self.runs)
        return {"precompute": sum(c.cost.worker_hours for c in self.caches), "training": trained}

    @property
    def disk(self) -> int:
        """Bytes of all caches."""
        return sum(cache.cost.total_bytes for cache in self.caches)

    def lines(self) -> list[str]:
        """For people, and for a shell."""
        head = f"# {self.table} at the paper's size, {counted(self.seeds, 'seed')}. Caches:"
        lines = [*self.opening, head]
        for made in self.caches:
            cost, bound = made.cost, "" if made.counted else "at most "
            told = f"# {bound}{counted(cost.images, 'image')}, {size(cost.total_bytes)}, "
            told += f"{cost.worker_hours:.1f} hours of {cost.device}"
            lines += [told, made.command]
        lines.append("# Rows, all seeds:")
        for row in self.rows:
            lines += self._row(row)
        parts = ", ".join(f"{name} {hours:.0f}" for name, hours in self.hours.items())
        most = max((row.memory for row in self.runs), default=0)
        total = (
            f"in all {sum(self.hours.values()):.0f} GPU-hours on {self.gpu.name} ({parts}); "
            f"{counted(len(self.runs), 'run')} per seed and {counted(len(self.caches), 'cache')}, "
            f"each counted once; disk {size(self.disk)}; GPU memory up to {size(most)}"
        )
        lines += [f"# {line}" for line in (total, self._shared(), self._basis())]
        lines += [f"# missing: {what}" for what in self.missing]
        if not self.asked:
            lines.append(
                "# not started: the above is missing here. Give it and run the same command."
            )
        return lines

    def _shared(self) -> str:
        """Hours and bytes that taking layers and rows from earlier caches spares."""
        hours = sum(made.alone.worker_hours for made in self.caches)
        disk = sum(made.alone.total_bytes for made in self.caches)
        return (
            "every photograph's superpixels are made once and taken over by the other caches; each "
            f"cache by itself would be {hours:.0f} GPU-hours of precompute and {size(disk)}"
        )

    def _row(self, row: RowPrice) -> list[str]:
        if row.not_run:
            return [f"# {row.name}: cannot be run: {row.not_run}"]
        if row.same_as:
            return [f"# {row.name}: the same run as {row.same_as}"]
        if row.trained_by:
            return [
                f"# {row.name}: the model of {row.trained_by}, evaluated otherwise",
                *row.commands,
            ]
        if not row.tokens:
            return [f"# {row.name}: evaluated as published, nothing trains", *row.commands]
        head = (
            f"# {row.name}: {counted(row.tokens, 'token')}, projector {row.parameters / 1e6:.1f} "
            "M, "
        )
        head += f"{row.hours:.1f} GPU-hours per seed, {size(row.memory)} per process "
        head += (
            f"({counted(row.micro_batch, 'image')} per "
            f"pass{', recomputed' if row.recompute else ''})"
        )
        if not row.fits:
            head += f": does not fit {self.gpu.name} with {size(self.gpu.memory)}"
        return [head, *row.commands]

    def _basis(self) -> str:
        images = "images counted" if all(c.counted for c in self.caches) else (
            "published image counts (the sets share photographs: an upper bound)"
        )  # fmt: skip
        return (
            f"basis: {images}, {SUPERPIXELS} superpixels per image unless stated otherwise, "
            f"{TEXT} text ids, {SHARE:.0%} of {self.gpu.peak / 1e12:.0f} TFLOP/s for language model "
            f"and projector, the model's weights read at {self.gpu.bandwidth / 1e12:.2f} TB/s in "
            "every pass of a micro-batch; memory without the projector's and mask decoder's "
            "activations; evaluation not counted"
        )

    def to_json(self) -> dict[str, object]:
        return {
            "table": self.table,
            "seeds": self.seeds,
            "gpu": self.gpu.name,
            "gpu_hours": self.hours,
            "disk": self.disk,
            "missing": list(self.missing),
            "caches": [
                {
                    "command": c.command,
                    "counted": c.counted,
                    **c.cost.to_json(),
                    "alone": {
                        "worker_hours": round(c.alone.worker_hours, 4),
                        "total_bytes": c.alone.total_bytes,
                    },
                }
                for c in self.caches
            ],
            "rows": [asdict(row) for row in self.rows],
        }


def price_plan(
    request: ReproduceRequest, data: Data, table: Experiment, missing: Sequence[str], *, asked: bool
) -> PricePlan:
    """The price of a table at the paper's size. Raises ConfigError."""
    rows = [table.row(name) for name in request.rows] or list(table.rows)
    made, named = Reference(request.changes, request.processes), Caches(request, data)
    ledger = _Ledger(request, named)
    caches: dict[tuple[Overrides, str, str], CachePrice] = {}
    priced: list[RowPrice] = []
    runs: dict[tuple[str, ...], str] = {}
    trainings: dict[tuple[str, ...], str] = {}
    for row in rows:
        found = _row(request, data, row, made, named)
        first = runs.setdefault(found.commands, row.name) if found.commands else row.name
        if first != row.name:
            found = replace(found, same_as=first)
        elif trains := () if row.not_run else training_commands(request, data, row, named):
            before = trainings.setdefault(trains, row.name)
            if before != row.name:
                only = found.commands[len(trains) :]
                found = replace(found, trained_by=before, hours=0.0, commands=only)
        priced.append(found)
        for dataset, split in [] if row.not_run else splits_of(row, data):
            if (key := (row.cache, dataset, split)) not in caches:
                caches[key] = ledger.price(row, dataset, split)
    return PricePlan(
        table.key, request.seeds, GPUS[request.gpu], tuple(priced), tuple(caches.values()), tuple(missing),
        asked,
    )  # fmt: skip


def _row(
    request: ReproduceRequest, data: Data, row: Row, made: Reference, caches: Caches
) -> RowPrice:
    if row.not_run:
        return RowPrice(row.name, row.not_run, 0, 0, 0.0, 0, True, ())
    if row.untrained:
        return RowPrice(row.name, "", 0, 0, 0.0, 0, True, row_commands(request, data, row, caches))
    recipe, _ = resolve_train(
        "paper", None, TrainFlags(), (*row.train, *request.changes), weights=False
    )
    made_of = outline_projector(recipe, CHANNELS, GRID, LLM)
    tokens = made_of.num_tokens(GRID) or row.superpixels
    projector = sum(parameter.numel() for parameter in made_of.parameters())
    gpu, flops = (
        GPUS[request.gpu],
        _flops(recipe.model.projector.model_dump_json(), row.superpixels),
    )
    recipe = made.sized(recipe, tokens, projector, flops, gpu)
    memory = made.memory(recipe, tokens, projector)
    return RowPrice(
        row.name, "", tokens, projector, made.hours(recipe, tokens, flops, gpu), memory,
        memory <= gpu.memory, row_commands(request, data, row, caches),
        micro_batch=recipe.run.images, recompute=recipe.run.recompute,
    )  # fmt: skip


@cache
def _flops(projector: str, superpixels: int) -> float:
    recipe, _ = resolve_train(
        "paper",
        None,
        TrainFlags(),
        (Override("model.projector", json.loads(projector)),),
        weights=False,
    )
    return projector_flops(outline_projector(recipe, CHANNELS, GRID, LLM), superpixels)


class _Ledger:
    """Account of the rows that caches of a table share: what one has is not computed for another.

    Photographs are told apart by path where the data is here, else by data set and split.
    """

    def __init__(self, request: ReproduceRequest, caches: Caches) -> None:
        self.request, self.caches = request, caches
        self._lists: dict[tuple[str, frozenset[str]], None] = {}
        self._made: dict[str, set[str]] = {}  # recipe of a layer -> photographs that have it

    def price(self, row: Row, dataset: str, split: str) -> CachePrice:
        """The next cache. Raises ConfigError."""
        request = self.request
        asked = self.caches.precompute_request(row, dataset, split)
        assert isinstance(asked.out, Path)
        words = precompute_words(request, row, dataset, split, asked.out)
        paths = _paths(request, dataset, split)
        images = len(paths) if paths is not None else published_images(dataset, split)
        names = paths if paths is not None else {f"{dataset} {split} {i}" for i in range(images)}
        plan = priced_plan(replace(asked, dataset=None, root=None, out=None))
        lent: dict[str, int] = {}
        new: set[str] = set()
        linked: list[str] = []
        for layer in plan.layers:
            have = self._made.setdefault(layer.recipe_id, set())
            lent[layer.kind] = len(names & have)
            new = names - have if layer.kind == "superpixels" else new
            if (listed := (layer.recipe_id, frozenset(names))) in self._lists:
                linked.append(layer.kind)
            self._lists[listed] = None
            have |= names
        workers = request.run_options.workers or 1
        cost, alone = (
            estimate(plan, images, device=request.gpu, workers=workers, lent=a, linked=b)
            for a, b in ((lent, linked), ({}, ()))
        )
        sam = plan.layer("superpixels").recipe_id if plan.recipe.superpixels.prompts_sam else ""
        return CachePrice(shlex.join(words), cost, paths is not None, alone, sam, frozenset(new))


def _paths(request: ReproduceRequest, dataset: str, split: str) -> set[str] | None:
    """Paths of a split's images, if the data is here."""
    if request.root is None:
        return None
    try:
        found = open_dataset(dataset, root=request.root, split=split).images
    except SvpError:
        return None
    return {image.path for image in found}


def published_images(dataset: str, split: str) -> int:
    """Images by the published counts; photographs that data sets share count in each."""
    return sum(COUNTS[name, SPLIT_BY[name]][split].images for name in dataset.split(","))
