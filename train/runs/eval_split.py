"""Open one split of an evaluation: source, caches, planned dialogues, result header."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from ... import __version__
from ...pipeline.cache.row_reader import RowReader
from ...pipeline.datasets import Source
from ...pipeline.datasets.problems import merged
from ..data.build_table import check_left_out
from ..data.collate import SUPERPIXEL_ORDER
from ..data.dialogues import build_dialogue
from ..data.length_check import ANY, TokenBudget
from ..data.prompts import Turn
from ..evaluation.protocols import Example, Unit, gather, plan, that_fit
from ..evaluation.results import Header, SplitSize
from ..evaluation.trained import Trained
from ..provenance import commit, libraries
from .eval_request import EvalRequest
from .inputs import DataRequest, require_models, source_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """One split, opened and joined with its caches."""

    name: str
    data: DataRequest
    source: Source
    readers: tuple[RowReader, ...]
    items: list[Example]
    units: list[Unit]
    left_out: dict[str, int]


def open_split(
    request: EvalRequest,
    trained: Trained,
    name: str,
    readers: tuple[RowReader, ...],
) -> Split:
    source = source_of(request.data, trained.recipe, name)
    require_models(trained.recipe, readers, source, request.size)
    allowed = request.data.max_failures
    found = gather(source, readers, request.limit, max_failures=allowed)
    budget = TokenBudget(readers, trained.model.projector.most_tokens(readers[0].plan.grid))
    items, long = that_fit(found.items, trained.vocab, budget)
    for line in long.faults().notices():
        log.info(line)
    asked = sum(len(item.expressions) for item in found.items)
    bad = merged((found.bad, long.settle(asked, None)))
    check_left_out(bad, len(found.quarantined), allowed)
    left_out = found.left_out | ({"too long": long.found} if long.found else {})
    units = _units(request, items, trained, budget)
    return Split(name, request.data, source, readers, items, units, left_out)


def _units(
    request: EvalRequest, items: Sequence[Example], trained: Trained, budget: TokenBudget
) -> list[Unit]:
    def fits(item: Example, turns: Sequence[Turn]) -> bool:
        ids = build_dialogue(trained.vocab, turns, limit=ANY).ids
        return len(ids) <= budget.of(item.entry)

    return plan(
        items,
        request.protocol,
        generate=request.generate,
        seed=request.seed,
        repeats=_repeats(request),
        shuffle=request.shuffle_orders > 0,
        wording=trained.vocab.wording,
        fits=fits,
    )


def _repeats(request: EvalRequest) -> int:
    return request.repeats + request.shuffle_orders


def header_of(request: EvalRequest, trained: Trained, split: Split) -> Header:
    shuffled = f", and {request.shuffle_orders} shuffled" if request.shuffle_orders else ""
    caches = {f"cache {n}": reader.plan.id for n, reader in enumerate(split.readers)}
    data = {f"data {name}": digest for name, digest in split.source.sha256.items()}
    return Header(
        svp=__version__,
        commit=commit(),
        protocol=request.protocol,
        generate=request.generate,
        seed=request.seed,
        repeats=_repeats(request),
        order=SUPERPIXEL_ORDER + shuffled,
        splits=_sizes(split.source, split.name, split.items, split.units),
        digests=trained.digests | caches | data,
        left_out=split.left_out,
        libraries=libraries(),
    )


def _sizes(
    source: Source, split: str, items: Sequence[Example], units: Sequence[Unit]
) -> list[SplitSize]:
    """Number of evaluated sentences of each data set, in one repeat."""
    split_by = {row.dataset: row.split_by for row in source.sentences}
    asked = [(u.example.entry.dataset, len(u.asked)) for u in units if u.repeat == 0]
    return [
        SplitSize(
            dataset=dataset,
            split_by=split_by[dataset],
            split=split,
            images=sum(item.entry.dataset == dataset for item in items),
            sentences=sum(count for name, count in asked if name == dataset),
        )
        for dataset in sorted({item.entry.dataset for item in items})
    ]
