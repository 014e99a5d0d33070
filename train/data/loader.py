"""Training data loader: global batches in a fixed order, prefetched by threads.

Every sample (which image, which sentences, which wordings, which order of superpixels) is a pure
function of the seed and the sample's number, so ranks, threads and restarts change nothing. Threads
suffice: reading, checksums and decompression release the interpreter lock, and no worker process
has to copy a batch. `Stream` is all that the training loop knows of it.
"""

from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from ...model.batch import Batch
from ...pipeline.datasets.problems import Problems
from ...pipeline.errors import ConfigError, DataError
from .budget_draw import BudgetDraw
from .collate import Item, VisualSource, make_batch
from .dialogues import MAX_IDS, Dialogue, build_dialogue
from .expression_table import NOTHING, Entry, ExpressionTable, Said
from .keyed_rng import Choices, key_of, permutation
from .length_check import ANY, TokenBudget, too_long
from .length_cuts import by_length
from .passes import GLOBAL, stored_order
from .prompts import Turn, choose_captions, choose_turns
from .sampler import Cursor, Order, SampleRef, Sampling, pools_of
from .tokenizer import Vocabulary

CursorState = Mapping[str, JsonValue]


@dataclass(frozen=True)
class Step:
    """This rank's share of one global batch.

    batches  its micro-batches, on the CPU, valid until the next step is asked for
    images   per micro-batch, the images by dataset and id: to name a batch that fails
    cursor   position after this step; equal on all ranks
    """

    batches: tuple[Batch, ...]
    images: tuple[tuple[str, ...], ...]
    cursor: CursorState


class Stream(Protocol):
    """An endless sequence of global batches that can start anywhere.

    identity  digests of what it reads, by name
    """

    @property
    def identity(self) -> Mapping[str, str]:
        """Digests of caches and table, by name."""
        ...

    def start(self) -> CursorState:
        """The cursor before the first step."""
        ...

    def steps(self, cursor: CursorState) -> Iterator[Step]:
        """Steps from `cursor` on. Raises DataError if it belongs to other data."""
        ...


AHEAD = 4  # micro-batches that are ready or being filled before they are asked for, at least


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Settings that determine the order of samples, besides the data.

    sentences  turns of one dialogue at most, drawn without replacement at every visit
    order      `global` or `window:N`, see `passes`; shard  rows of the caches' shards, for windows
    captions   the sentences are answers, not questions; of a table of captions
    budget     draws a budget of superpixels for each step; None: that of the source of visuals
    """

    seed: int
    global_batch: int
    sampling: Sampling = "uniform"
    sentences: int = 3
    order: str = GLOBAL
    shard: int = 64
    captions: bool = False
    budget: BudgetDraw | None = None


@dataclass(frozen=True, kw_only=True)
class RankSlice:
    """This process's part: rank `rank` of `world`; its images come about `micro_batch` at a time.

    Those of like length come together (`length_cuts`): a batch is padded to its longest sample.

    pinned  batches lie in pinned memory, for copies to a GPU beside other work
    """

    micro_batch: int
    rank: int = 0
    world: int = 1
    threads: int = 2
    pinned: bool = False


class Loader:
    """An endless stream of this rank's share of global batches (`Stream`)."""

    def __init__(
        self,
        table: ExpressionTable,
        visuals: VisualSource,
        vocab: Vocabulary,
        draws: Draws,
        share: RankSlice,
        *,
        max_ids: int = MAX_IDS,
        budget: TokenBudget | None = None,
    ) -> None:
        self.table, self.visuals, self.vocab = table, visuals, vocab
        self.draws, self.share, self.max_ids, self.budget = draws, share, max_ids, budget
        self._bad, self.too_long = (
            too_long(table, vocab, budget, captions=draws.captions)
            if budget
            else ({}, Problems(""))
        )
        if not 0 <= share.rank < share.world <= draws.global_batch:
            raise ConfigError(
                f"rank {share.rank} of {share.world} with a global batch of {draws.global_batch}: "
                "every rank needs at least one image per step"
            )
        self._entries, sizes = self._usable()
        pools = pools_of(sizes, draws.sampling)
        stored = None
        if draws.order != GLOBAL:
            every = isinstance(self._entries, range)
            cache, row = (own if every else own[self._entries] for own in table.places)
            stored = stored_order(cache, row, pools, draws.shard)
        self.order = Order(
            sizes, seed=draws.seed, sampling=draws.sampling, order=draws.order, stored=stored
        )

    @property
    def identity(self) -> Mapping[str, str]:
        """Digests of what is read, by name."""
        caches = {f"cache {i}": cache for i, cache in enumerate(self.table.caches)}
        return {"table": self.table.digest, **caches}

    def start(self) -> dict[str, JsonValue]:
        """The cursor before the first step."""
        return self._cursor.to_json()

    def batch_of(self, key: int, images: int) -> Batch:
        """A batch of so many images drawn by `key` alone, whatever the rank and its micro-batch."""
        drawn = permutation(key, len(self._entries))[:images]
        items = [self.sample(SampleRef(int(entry), 0)) for entry in drawn]
        return make_batch(self.table, self.visuals, items, self.vocab.pad)

    def steps(self, cursor: Mapping[str, JsonValue]) -> Generator[Step]:
        """Steps from `cursor` on, without end.

        Raises PlanMismatchError if the cursor belongs to another stream; DataError or CacheError
        naming the image of a sample that cannot be made. Closing the iterator ends its threads.
        """
        first = self._cursor.goes_on(cursor).step
        return self._steps(first)

    def sample(self, draw: SampleRef) -> Item:
        """Image, sentences and dialogue of one draw. Raises DataError naming the image."""
        number = int(self._entries[draw.entry])
        entry, known = self.table.entry(number), self.table.sentences(number)
        bad = self._bad.get(number, frozenset())
        usable = [one for place, one in enumerate(known) if place not in bad] if bad else known
        key = key_of(self.draws.seed, draw.visit, entry.dataset, entry.image_id)
        said = Choices(key_of(key, "sentences")).sample(usable, self.draws.sentences)
        names = ", ".join(str(one.sent_id) for one in said)
        try:
            texts, drawn = [one.text for one in said], key_of(key, "wordings")
            dialogue, count = self._dialogue(self._turns(said, texts, drawn), entry)
        except DataError as error:
            raise DataError(f"{entry.name}: {error} (sentences {names})") from None
        meant = [one for one in said[:count] if one.target != NOTHING]
        return Item(entry, meant, dialogue, key_of(key, "superpixels"))

    def _turns(self, said: Sequence[Said], texts: Sequence[str], key: int) -> Sequence[Turn]:
        if self.draws.captions:
            return choose_captions(texts, key)
        return [
            turn.rejected() if one.target == NOTHING else turn
            for one, turn in zip(said, choose_turns(texts, key, self.vocab.wording), strict=True)
        ]

    def _dialogue(self, turns: Sequence[Turn], entry: Entry) -> tuple[Dialogue, int]:
        """The first of the turns that fit together, and how many: every one of them fits alone."""
        if self.budget is None:
            return build_dialogue(self.vocab, turns, limit=self.max_ids), len(turns)
        limit = self.budget.of(entry)
        while True:
            whole = build_dialogue(self.vocab, turns, limit=ANY if len(turns) > 1 else limit)
            if len(whole.ids) <= limit:
                return whole, len(turns)
            turns = turns[:-1]

    def _usable(self) -> tuple[range | NDArray[np.int64], list[int]]:
        """Entries with a sentence that fits, and how many each data set has."""
        every = range(len(self.table))
        lost = {i for i in self._bad if len(self._bad[i]) == len(self.table.sentences(i))}
        if not lost:
            return every, self.table.sizes
        kept = np.delete(np.arange(len(self.table)), sorted(lost))
        firsts = np.cumsum([0, *self.table.sizes])  # entries are sorted by data set
        return kept, np.diff(np.searchsorted(kept, firsts)).tolist()

    @property
    def _cursor(self) -> Cursor:
        draws = self.draws
        return Cursor(
            caches=list(self.table.caches),
            table=self.table.digest,
            seed=draws.seed,
            sampling=draws.sampling,
            sentences=draws.sentences,
            global_batch=draws.global_batch,
            order_version=self.order.version,
            order=draws.order,
            step=0,
        )

    def _steps(self, step: int) -> Generator[Step]:
        pool = ThreadPoolExecutor(self.share.threads, thread_name_prefix="svp-loader")
        waiting: deque[_Pending] = deque()
        try:
            while True:
                # The next step is filled while this one is trained on.
                while len(waiting) < 2 or sum(len(p.batches) for p in waiting) <= AHEAD:
                    waiting.append(self._submit(pool, step + len(waiting)))
                yield waiting.popleft().wait()
                step += 1
        finally:
            pool.shutdown(cancel_futures=True)

    def _submit(self, pool: ThreadPoolExecutor, step: int) -> "_Pending":
        share = self.share
        drawn = self.order.batch(step, self.draws.global_batch, share.rank, share.world)
        count = -(-len(drawn) // share.micro_batch)
        cursor = self._cursor.at(step + 1).to_json()
        # Submitted before those that wait for it, so one thread is enough.
        split = pool.submit(self._split, drawn)
        visuals = self.visuals
        if self.draws.budget is not None:
            visuals = visuals.selecting(self.draws.budget.at(step))
        filled = [pool.submit(self._fill, visuals, split, k) for k in range(count)]
        return _Pending(filled, cursor)

    def _split(self, drawn: Sequence[SampleRef]) -> list[list[Item]]:
        """The samples of each micro-batch."""
        items = [self.sample(draw) for draw in drawn]
        lengths = [len(item.dialogue.ids) for item in items]
        if self.budget is not None:
            lengths = [
                ids - 1 + self.budget.tokens(item.entry)
                for ids, item in zip(lengths, items, strict=True)
            ]
        groups = by_length(lengths, self.share.micro_batch)
        return [[items[place] for place in group] for group in groups]

    def _fill(
        self, visuals: VisualSource, split: Future[list[list[Item]]], number: int
    ) -> tuple[Batch, tuple[str, ...]]:
        items = split.result()[number]
        # Here and not in the training loop: what the host knows of a batch costs time to find out.
        batch = make_batch(self.table, visuals, items, self.vocab.pad).with_layout()
        batch = batch.pinned() if self.share.pinned else batch
        return batch, tuple(item.entry.name for item in items)


@dataclass(frozen=True)
class _Pending:
    """A step whose micro-batches are being filled."""

    batches: Sequence["Future[tuple[Batch, tuple[str, ...]]]"]
    cursor: Mapping[str, JsonValue]

    def wait(self) -> Step:
        """The step; an error of a thread is raised here."""
        done = [future.result() for future in self.batches]
        return Step(tuple(b for b, _ in done), tuple(names for _, names in done), self.cursor)
