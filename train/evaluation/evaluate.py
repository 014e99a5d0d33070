"""Run a model over a planned evaluation; one result row per sentence.

Batches are formed first and then distributed to ranks, so a sentence has the same neighbours for any
number of processes: rounding, and with it every count, is the same. Where an image is
asked about more than once, a batch is of one image: its features are read, projected and put through
the language model once, for all its sentences (`model.inference.shared_prefix`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...model.batch import Batch
from ...model.inference.ask import asked
from ...model.inference.generate import generate
from ...model.inference.precision import arithmetic, input_dtype
from ...model.inference.shared_prefix import reply_shared
from ...model.ris import RisModel
from ...pipeline.errors import WeightsError
from ...pipeline.io.json_files import canonical
from ...pipeline.masks import rle
from ...pipeline.records import Expression, Rle
from ..data.collate import VisualSource
from ..data.dialogues import MAX_IDS, build_dialogue, collate, usual_answer
from ..data.length_check import ANY
from ..data.tokenizer import Vocabulary
from ..distributed import gather, mine, rank_and_world, together
from .boxes import box_around, box_iou
from .protocols import Example, Unit
from .rejection import rejections, rejects
from .results import Bounds, BoxResult, Row
from .unions import Clock, pieces_of, ratio, recall, union_logits

Share = Sequence[Unit]  # one batch
Judge = Callable[[Example, Expression], Bounds]
Classes = Callable[[Expression], list[str]]


class Keeper(Protocol):
    """Keeps rows as they are made; see `parts.Parts`."""

    @property
    def done(self) -> Mapping[int, Sequence[Row]]:
        """Number of a batch -> its rows."""
        ...

    def add(self, number: int, rows: Sequence[Row]) -> None:
        """Keep the rows of a batch."""
        ...


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of an evaluation; of its masks only `ask` and `unions` change any.

    batch     dialogues in one pass of the language model
    classes   the word classes of a sentence
    judge     what the superpixels allow for a sentence, or None
    progress  called with the dialogues done on this rank
    parts     keeps rows as they are made; what it has already is not computed again
    reject_above  chance above which nothing is meant (`rejection`); None: one half, of [REJ] alone
    ask       superpixels that each question keeps by its words; None: all that there are
    unions    masks are unions of the superpixels that token answers choose
    decoder   SAM's decoder makes the masks, or with `unions` others to compare with
    clock     measures what `unions` takes
    """

    batch: int = 16
    device: str = "cpu"
    classes: Classes = lambda expression: []
    judge: Judge | None = None
    progress: Callable[[int], None] = lambda done: None
    parts: Keeper | None = None
    reject_above: float | None = None
    ask: int | None = None
    unions: bool = False
    decoder: bool = True
    clock: Clock | None = None


def evaluate(
    model: RisModel,
    units: Sequence[Unit],
    vocab: Vocabulary,
    visuals: VisualSource,
    settings: Settings,
) -> list[Row]:
    """One row per evaluated sentence, sorted by key, on every rank.

    Where the dialogues of `units` are open (`plan(..., generate=True)`), their answers are generated.
    Raises WeightsError if the model's logits are not finite, and what `visuals` raises.
    """
    generated = any(unit.turns[-1].answer is None for unit in units)
    # Batches are cut before they are dealt to ranks, and rows that an interrupted evaluation kept
    # are taken over batch by batch: neither changes a sentence's neighbours.
    groups = [list(units)] if generated else by_image(units)
    numbered = mine([*enumerate(cut(groups, settings.batch))])
    done = settings.parts.done if settings.parts else {}
    rows: list[Row] = [row for number, _ in numbered for row in done.get(number, ())]
    settings.progress(sum(len(share) for number, share in numbered if number in done))
    left = [(number, share) for number, share in numbered if number not in done]

    def read(share: Share) -> Batch:
        """Of one image its features once; generated answers grow apart, so they share nothing."""
        once = not generated and len({unit.look for unit in share}) == 1
        return to_batch(share, vocab, visuals, once=once, limit=ANY)

    # An error of one rank ends the others where they would wait for its rows.
    with together("evaluation"):
        # One batch is read while another is computed; its rows are kept before the next one starts.
        model.eval()
        dtype = input_dtype(model)
        with torch.inference_mode(), arithmetic(model):
            ahead = _ahead([share for _, share in left], read)
            for (number, share), batch in zip(left, ahead, strict=True):
                moved = batch.to(settings.device, dtype)
                if generated:
                    answers = _generated(model, moved, vocab)
                else:
                    answers = _forced(model, moved, vocab, share, visuals, settings)
                made: list[Row] = []
                for unit, said in zip(share, answers, strict=True):
                    made += _rows(unit, said, settings)
                if settings.parts is not None:
                    settings.parts.add(number, made)
                rows += made
                settings.progress(len(share))
    return _gathered(rows, settings.device)


def by_image(units: Sequence[Unit]) -> list[Share]:
    """The dialogues of each image; all together where most images have one (protocol glamm)."""
    looks: list[Share] = [list(group) for _, group in groupby(units, key=lambda unit: unit.look)]
    return looks if 2 * len(looks) <= len(units) else [list(units)]


def cut(groups: Sequence[Share], size: int) -> list[Share]:
    """Batches of at most `size` dialogues, none of two groups."""
    return [group[i : i + size] for group in groups for i in range(0, len(group), size)]


def to_batch(
    units: Sequence[Unit],
    vocab: Vocabulary,
    visuals: VisualSource,
    *,
    once: bool = False,
    limit: int = MAX_IDS,
) -> Batch:
    """The batch of some dialogues, without targets; each image is read once.

    limit  ids of a dialogue; an evaluation has left out what is too long before it starts
    once  the one image of all dialogues is in the batch once, as `reply_shared` wants it
    """
    looks = [unit.look for unit in units]
    place = {look: i for i, look in enumerate(dict.fromkeys(looks))}
    assert not once or len(place) == 1, "one image"
    visual, sam, _ = visuals.read([entry for entry, _ in place], [order for _, order in place])
    index = torch.tensor([0] if once else [place[look] for look in looks])
    texts = collate([build_dialogue(vocab, unit.turns, limit=limit) for unit in units], vocab.pad)
    return Batch(
        visual.map(lambda tensor: tensor[index]),
        *texts,
        sam=sam[index],
        square=visuals.square,
        sizes=tuple((entry.height, entry.width) for entry, _ in looks),
        packed=None,
        sent_ids=tuple(tuple(e.sent_id for e in unit.asked) for unit in units),
    )


def _ahead(shares: Sequence[Share], make: Callable[[Share], Batch]) -> Iterator[Batch]:
    """The batch of every share, the next one being read while this one is computed."""
    with ThreadPoolExecutor(1) as reader:
        waiting = [reader.submit(make, share) for share in shares[:2]]
        for number in range(len(shares)):
            batch = waiting.pop(0).result()
            waiting += [reader.submit(make, share) for share in shares[number + 2 : number + 3]]
            yield batch


class _Said(NamedTuple):
    """Answers of one dialogue.

    tokens     visual tokens that it has
    logits     (n,H,W) of its masks; None: no [SEG] was generated
    rejection  chance for each that nothing is meant, see `rejections`; None: it has answered by itself
    drawn      (n,H,W) of SAM's decoder, beside unions of superpixels
    kept       the superpixels that a question keeps, and all of its image
    """

    tokens: int
    logits: Tensor | None
    rejection: Sequence[float | None] | None = None
    drawn: Tensor | None = None
    kept: tuple[list[Rle], list[Rle]] | None = None


def _forced(
    model: RisModel,
    batch: Batch,
    vocab: Vocabulary,
    share: Share,
    visuals: VisualSource,
    settings: Settings,
) -> list[_Said]:
    def timed(part: str) -> AbstractContextManager[None]:
        clock = settings.clock
        return clock.timing(part, len(batch.seg_row)) if clock else nullcontext()

    kept: Tensor | None = None
    with timed("read"):
        shared = len(batch.sam) < len(batch.ids)  # one image, several dialogues
        if settings.ask is not None:  # each of which then has its own tokens
            batch, kept = asked(model, batch, settings.ask)
            shared = False
        batch = batch.with_layout()
        reply = reply_shared(model, batch) if shared else model.reply(batch)
    pieces = (
        pieces_of(visuals, [u.look for u in share], kept)
        if settings.unions or kept is not None
        else []
    )
    masks: list[Tensor] | None = None
    drawn: list[Tensor] | None = None
    if settings.unions:
        with timed("union"):
            scores, owners = model.meant(reply, batch).cpu(), batch.seg_row.tolist()
            unions = [union_logits(s, pieces[k][0]) for s, k in zip(scores, owners, strict=True)]
            masks = [
                torch.stack([u for u, k in zip(unions, owners, strict=True) if k == row])
                for row in range(len(share))
            ]
    if settings.decoder:
        with timed("decoder"):
            drawn = model.drawn(reply, batch)
    masks, drawn = masks or drawn, drawn if masks else None
    assert masks is not None, "unions or the decoder"
    chances = iter(rejections(model, batch, reply, vocab, settings.reject_above))
    return [
        _Said(
            count,
            logits,
            [next(chances) for _ in logits],
            drawn[row] if drawn else None,
            pieces[row] if kept is not None else None,
        )
        for row, (count, logits) in enumerate(zip(_token_counts(model, batch), masks, strict=True))
    ]


def _generated(model: RisModel, batch: Batch, vocab: Vocabulary) -> list[_Said]:
    said = generate(model, batch, seg=vocab.seg, eos=vocab.ends, draft=usual_answer(vocab))
    return [
        _Said(count, masks if found else None)
        for count, masks, found in zip(
            _token_counts(model, batch), said.masks, said.seg.tolist(), strict=True
        )
    ]


def _rows(unit: Unit, said: _Said, settings: Settings) -> Iterator[Row]:
    """Rows of one dialogue; the prediction is empty without [SEG] and where nothing is meant."""
    logits = said.logits
    # Any comparison with NaN is False: a diverged model would pass as one that finds nothing.
    entry = unit.example.entry
    shape = (len(unit.asked), entry.height, entry.width)
    if logits is not None and not bool(logits.isfinite().all()):
        raise WeightsError(f"image {entry.name}: mask logits are NaN or infinite: training "
                           "diverged or the weights are damaged")  # fmt: skip
    found = np.zeros(shape, np.bool_) if logits is None else (logits > 0).cpu().numpy()
    assert found.shape == shape, "one mask per asked sentence"

    # Counts of pixels instead of ratios: every metric can be computed again from the rows.
    chances = said.rejection or [None] * len(unit.asked)
    for number, (expression, mask, chance) in enumerate(
        zip(unit.asked, found, chances, strict=True)
    ):
        has_seg = logits is not None and not rejects(chance, settings.reject_above)
        mask = mask & has_seg
        target = rle.decode(expression.mask).view(np.bool_)
        if expression.ignore is not None:  # in no count: neither for nor against the prediction
            counted = ~rle.decode(expression.ignore).view(np.bool_)
            target, mask = target & counted, mask & counted
        other = None
        if said.drawn is not None:
            other = (said.drawn[number] > 0).cpu().numpy() & has_seg
            other = other if expression.ignore is None else other & counted
        yield Row(
            repeat=unit.repeat,
            dataset=entry.dataset,
            image_id=entry.image_id,
            ref_id=expression.ref_id,
            sent_id=expression.sent_id,
            text=expression.text,
            path=unit.example.path,
            height=entry.height,
            width=entry.width,
            intersection=int((mask & target).sum()),
            union=int((mask | target).sum()),
            target=int(target.sum()),
            tokens=said.tokens,
            has_seg=has_seg,
            counts=rle.encode(mask).counts.decode("ascii"),
            classes=settings.classes(expression),
            # What superpixels allow for a filled box says nothing about its object.
            bounds=(
                settings.judge(unit.example, expression)
                if settings.judge and expression.box is None
                else None
            ),
            box=_box_result(expression, mask),
            rejection=chance,
            decoded=None if other is None else ratio(other & target, other | target),
            recall=None if said.kept is None else recall(*said.kept, target),
        )


def _box_result(expression: Expression, mask: NDArray[np.bool_]) -> BoxResult | None:
    if expression.box is None:
        return None
    return BoxResult(target=expression.box, iou=box_iou(expression.box, box_around(mask)))


def _token_counts(model: RisModel, batch: Batch) -> list[int]:
    """Visual tokens of each dialogue of the batch."""
    counts = model.projector.token_counts(batch.visual)
    return counts if len(counts) == len(batch.ids) else counts * len(batch.ids)


def _gathered(rows: list[Row], device: str) -> list[Row]:
    if rank_and_world()[1] > 1:
        lines = b"".join(canonical(row.model_dump(mode="json")) for row in rows)
        parts = gather(lines, device)
        rows = [Row.model_validate_json(line) for part in parts for line in part.splitlines()]
    return sorted(rows, key=lambda row: row.key)
