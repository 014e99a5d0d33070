"""`svp bench launches`: operators, bytes, casts, host syncs and graph breaks, against budgets.

Counted without a GPU at the paper's shapes, see `fake_model`. The language model is counted with one
layer and with two: the rest of its layers are alike.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ...model.batch import Batch
from ...model.inference.generate import generate
from ...model.inference.precision import input_dtype
from ...model.inference.shared_prefix import predict_shared
from ...model.losses import Weights
from ...model.ris import RisModel
from ...pipeline.bench.kernel_time import H200, DeviceRates
from ...pipeline.bench.operators import KernelCounter, Kernels
from ...pipeline.display import Report, markdown_table
from . import compiled_kernels, live_bound
from .budgets import BUDGETS
from .components import counts_of, forward, train_batch
from .fake_model import CudaRules, fake_batch, fake_model
from .host_syncs import host_syncs
from .inputs import cached_batch, opened
from .models import build_models
from .presets import PRESETS, Preset
from .runner import SENTENCES

PAPER = PRESETS["paper"]
# The same code with small real tensors, where values are read.
SMALL = Preset(
    name="small", hidden=64, layers=1, heads=2, intermediate=128, vocab=64, encoder="tiny",
    sam="tiny", points=8, dtype="float32", images=2, micro={"svp": 2}, photo=(48, 64),
)  # fmt: skip
SIZES = 8  # sizes of photographs in a batch of mixed ones
SHARED = 20  # ids at the end of a dialogue in which the questions about an image differ


@dataclass(frozen=True, slots=True)
class Work:
    """A pass to count; `stage` is 1 or 2 in training, 0 for an answer."""

    title: str
    projector: str
    stage: int
    images: int
    sizes: int = 1


WORKS = (
    Work("stage 2, SVP, 24 images", "svp", 2, 24),
    Work("stage 2, SVP, 24 images of 8 sizes", "svp", 2, 24, SIZES),
    Work("stage 1, SVP, 24 images", "svp", 1, 24),
    Work("stage 2, MLP, 6 images", "mlp", 2, 6),
    Work("answer, SVP, 1 image", "svp", 0, 1),
    Work("answer, MLP, 1 image", "mlp", 0, 1),
    Work("answer, SVP, 16 images", "svp", 0, 16),
    Work("answer, MLP, 16 images", "mlp", 0, 16),
)
TRAINING, MIXED, ANSWER, MLP_ANSWER = WORKS[0], WORKS[1], WORKS[4], WORKS[5]


@dataclass(frozen=True, slots=True)
class LaunchReport(Report):
    """Counts at the paper's shapes.

    parts   kernels by title of the work and component
    syncs   host syncs by pass and source line
    counts  what has a budget, by the names of `BUDGETS`
    """

    parts: Mapping[str, Mapping[str, Kernels]]
    syncs: Mapping[str, Mapping[str, int]]
    counts: Mapping[str, float]
    rates: DeviceRates = H200

    @property
    def exceeded(self) -> list[str]:
        """Names of the budgets that are exceeded."""
        return [name for name, count in self.counts.items() if count > BUDGETS[name].limit]

    @property
    def exit_code(self) -> int:
        """1 if a budget is exceeded."""
        return int(bool(self.exceeded))

    def to_json(self) -> dict[str, Any]:
        """Plain values; seconds are the model's for one H200."""
        parts = [
            {
                "work": work, "part": part, "operators": k.operators, "casts": k.casts,
                "bytes": k.bytes, "flops": k.flops, "seconds": self.rates.seconds(k),
            }
            for work, found in self.parts.items()
            for part, k in found.items()
        ]  # fmt: skip
        budgets = {
            name: {"count": count, "limit": BUDGETS[name].limit, "aim": BUDGETS[name].aim}
            for name, count in self.counts.items()
        }
        syncs = {work: dict(lines) for work, lines in self.syncs.items()}
        told = {"parts": parts, "budgets": budgets, "syncs": syncs}
        return told | {"exceeded": self.exceeded, "exit_code": self.exit_code}

    def lines(self) -> list[str]:
        """Markdown: parts, budgets, syncs."""
        head = ("work", "part", "operators", "casts", "GB", "TFLOP", "GPU, ms", "launches, ms",
                "predicted, ms")  # fmt: skip
        rows = [
            (work, part, f"{k.operators:,}", f"{k.casts:,}", f"{k.bytes / 1e9:.1f}",
             f"{k.flops / 1e12:.3f}", f"{1e3 * self.rates.device_seconds(k):.1f}",
             f"{1e3 * self.rates.host_seconds(k):.1f}", f"{1e3 * self.rates.seconds(k):.1f}")
            for work, found in self.parts.items() for part, k in found.items()
        ]  # fmt: skip
        lines = ["Predicted for one H200 by three constants; counted, not measured.", ""]
        lines += [*markdown_table(head, rows).splitlines(), ""]
        limits = [
            (name, f"{count:,.10g}", f"{BUDGETS[name].limit:,.10g}", f"{BUDGETS[name].aim:,.10g}")
            for name, count in self.counts.items()
        ]
        lines += [*markdown_table(("budget", "counted", "limit", "aim"), limits).splitlines(), ""]
        mlp, svp = (self.parts[work.title]["LLM"] for work in (MLP_ANSWER, ANSWER))
        lines += [*live_bound.lines(mlp, svp), ""]
        for work, where in self.syncs.items():
            found = ", ".join(f"{line} x{n}" if n > 1 else line for line, n in where.items())
            lines.append(f"- host syncs, {work}: {found or 'none'}")
        return lines + [f"- BUDGET EXCEEDED: {name}" for name in self.exceeded]


def run() -> LaunchReport:
    """Count everything; about a minute."""
    found = {work: count(work) for work in WORKS}
    syncs = sync_lines()
    training, layer = found[TRAINING]
    counts = operator_counts(training, found[MIXED][0], found[ANSWER][0], layer)
    counts |= sync_counts(syncs) | break_counts() | compiled_counts()
    return LaunchReport({w.title: c.parts for w, (c, _) in found.items()}, syncs, counts)


@dataclass(frozen=True, slots=True)
class Counted:
    """A pass. kernels by component; saved: bytes per token that the layers keep for the backward pass."""

    parts: dict[str, Kernels]
    saved: float


def count(work: Work, preset: Preset = PAPER) -> tuple[Counted, float]:
    """The pass with all layers of `preset`, and the bytes that each of them saves per token."""
    one, two = (count_once(work, replace(preset, layers=layers)) for layers in (1, 2))
    more = preset.layers - 1
    parts = {}
    for part, first in one.parts.items():
        second = two.parts[part]
        parts[part] = Kernels({k: first[k] + more * (second[k] - first[k]) for k in first | second})
    layer = two.saved - one.saved
    return Counted(parts, one.saved + more * layer), layer


def count_once(work: Work, preset: Preset) -> Counted:
    """The pass as it is, with every layer of `preset`."""
    fake = FakeTensorMode()
    sentences = SENTENCES if work.stage else 1
    batch = cached_batch(preset, work.projector, work.images, sentences=sentences)
    counts, batch = counts_of([batch]), fake_batch(of_sizes(batch, work.sizes), fake)
    model = fake_model(preset, work.projector, work.stage, fake)
    counter = KernelCounter()
    with fake, CudaRules(), counter, _saved_by_layers(model) as saved:
        batch = batch.to("cpu", input_dtype(model))
        counter.lap("copy")
        if work.stage:
            train_batch(model, batch, counter.lap, Weights(), counts)
        else:
            forward(model, batch, counter.lap)
    return Counted(counter.parts, sum(saved))


@contextmanager
def _saved_by_layers(model: RisModel) -> Iterator[list[float]]:
    """Bytes per token that autograd keeps of the language model's layers, once they have run.

    Parameters do not count.
    """
    known = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}
    saved: list[float] = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            kept[storage._cdata] = storage
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)

    def ended(_: nn.Module, __: Any, output: Any) -> None:
        hooks.__exit__(None, None, None)
        places = output.last_hidden_state.shape[:2].numel()
        saved.append(sum(storage.nbytes() for storage in kept.values()) / places)

    handles = [
        model.lm.model.register_forward_pre_hook(lambda *_: hooks.__enter__()),
        model.lm.model.register_forward_hook(ended, prepend=True),
    ]
    try:
        yield saved
    finally:
        for handle in handles:
            handle.remove()


def of_sizes(batch: Batch, sizes: int) -> Batch:
    """`batch` with photographs of so many heights, in turn; its targets are empty."""
    if sizes == 1:
        return batch
    height, width = batch.sizes[0]
    shapes = tuple((height - 16 * (i % sizes), width) for i in range(len(batch.sizes)))
    targets = tuple(
        torch.zeros(len(sent), h * w // 8, dtype=torch.uint8)
        for sent, (h, w) in zip(batch.sent_ids, shapes, strict=True)
    )
    return replace(batch, sizes=shapes, packed=targets)


def operator_counts(
    training: Counted, mixed: Counted, answer: Counted, layer: float
) -> dict[str, float]:
    """Budgets of the works `TRAINING`, `MIXED` and `ANSWER`; bytes saved by a layer per token."""
    return {
        "LLM, operators per layer, training": training.parts["LLM"].operators // PAPER.layers,
        "projector not compiled, operators, training": training.parts["projector"].operators,
        "projector not compiled, operators, inference": answer.parts["projector"].operators,
        "mask head and losses, operators, training": training.parts["mask decoder"].operators,
        "the same with photographs of 8 sizes": mixed.parts["mask decoder"].operators,
        "mask head, operators, inference": answer.parts["mask decoder"].operators,
        "casts, training": sum(k.casts for part, k in training.parts.items() if part != "copy"),
        "saved for the backward pass, bytes per token and layer": layer,
    }


def sync_lines() -> dict[str, dict[str, int]]:
    """Host syncs of each pass of the small model by source line."""
    model, batch = _small()
    shared, questions = (_copied(change(batch)) for change in (about_one_image, opened))
    batch = _copied(batch)
    passes: dict[str, Callable[[], Any]] = {
        "forward": lambda: model(batch),
        "predict": lambda: model.predict(batch),
        "predict_shared": lambda: predict_shared(model, shared),
        "generate, 4 ids": lambda: _generate(model, questions, 4),
        "generate, 8 ids": lambda: _generate(model, questions, 8),
    }
    found = {}
    for name, call in passes.items():
        with host_syncs() as lines:
            call()
        found[name] = dict(sorted(lines.items()))
    return found


def sync_counts(syncs: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    """Budgets of host syncs, from `sync_lines`."""
    total = {name: sum(lines.values()) for name, lines in syncs.items()}
    found: dict[str, float] = {
        f"host syncs, {name}": total[name] for name in ("forward", "predict", "predict_shared")
    }
    each = (total["generate, 8 ids"] - total["generate, 4 ids"]) / 4
    return found | {"host syncs, generate, per id": each}


def break_counts() -> dict[str, float]:
    """Graph breaks that `torch.compile` would meet in the small model."""
    model, batch = _small()
    batch = _copied(batch)
    passes: dict[str, Callable[..., Any]] = {"forward": model, "predict": model.predict}
    found = {}
    with _quiet():
        for name, call in passes.items():
            torch._dynamo.reset()
            told = torch._dynamo.explain(call)(batch)
            found[f"graph breaks, {name}"] = told.graph_break_count
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that compiling gives for each break."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def compiled_counts() -> dict[str, float]:
    """Operators of the projector as inductor writes it, see `compiled_kernels`."""
    model, batch = _small()
    with _quiet():
        return compiled_kernels.counts(model, _copied(batch))


def about_one_image(batch: Batch) -> Batch:
    """The dialogues of `batch` as questions about its first image, alike but for their ends."""
    ids = batch.ids.clone()
    ids[:, :-SHARED] = ids[:1, :-SHARED]
    visual = batch.visual.map(lambda x: x[:1])
    sizes = batch.sizes[:1] * len(batch.sizes)
    return replace(batch, ids=ids, visual=visual, sam=batch.sam[:1], sizes=sizes, packed=None)


def _small() -> tuple[RisModel, Batch]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_models(SMALL, ["svp"], torch.device("cpu"))["svp"]
    return model, cached_batch(SMALL, "svp", SMALL.images, sentences=1)


def _copied(batch: Batch) -> Batch:
    """As a step copies it to its device."""
    return batch.to("cpu", torch.float32)


def _generate(model: RisModel, batch: Batch, count: int) -> None:
    generate(model, batch, seg=-1, eos=-1, max_new_tokens=count)
