"""Length check: count tokens with the model's tokenizer, leave out sentences that do not fit.

A sequence is at most `MAX_LENGTH` positions long: the text, with the visual tokens of its image in
the place of one id. How many ids a sentence has, only the tokenizer knows: 500 letters of English are
about 120, 500 of Thai 1,500. A sentence that does not fit even alone, in the longest wording, is left
out by name; of sentences that do not fit together, a dialogue takes the first that do.
"""

from collections.abc import Sequence

from ...pipeline.cache.row_reader import RowReader
from ...pipeline.datasets.problems import Problems
from ...pipeline.display import counted
from .dialogues import MAX_LENGTH, build_dialogue
from .expression_table import Entry, ExpressionTable
from .prompts import DESCRIBE, SEG, Turn, phrase
from .tokenizer import Vocabulary

ANY = 1 << 30  # ids
SPARE = 8  # ids by which the pieces of a question may differ from the whole


class TokenBudget:
    """Numbers of text ids that fit beside an image's visual tokens.

    fixed  visual tokens of every image; None: as many as its superpixels
    """

    def __init__(
        self, caches: Sequence[RowReader], fixed: int | None, limit: int = MAX_LENGTH
    ) -> None:
        self.caches, self.fixed, self.limit = caches, fixed, limit

    def tokens(self, entry: Entry) -> int:
        """Visual tokens of an image; the most there can be where they are not known yet."""
        if self.fixed is not None:
            return self.fixed
        return self.caches[entry.cache].most(entry.row)

    def of(self, entry: Entry) -> int:
        """Text ids, the image's place among them."""
        return self.limit - self.tokens(entry) + 1

    @property
    def least(self) -> int:
        """A number of text ids that fits beside every image."""
        most = self.fixed if self.fixed is not None else max(cache.plan.k for cache in self.caches)
        return self.limit - most + 1


def longest(vocab: Vocabulary, text: str, *, captions: bool = False) -> int:
    """Ids of the longest dialogue of one turn about `text`, over all wordings; with `captions` of
    one that it answers.
    """
    if captions:
        return max(_ids(vocab, Turn(line, f"{text}.")) for line in DESCRIBE)
    words = vocab.wording
    answers = (*words.answers, words.answer)
    assert all(SEG in line for line in answers)
    answer = max(answers, key=lambda line: _ids(vocab, Turn("", line)))
    questions = {*words.questions, words.question}
    return max(_ids(vocab, Turn(line.format(text), answer)) for line in questions)


def too_long(
    table: ExpressionTable, vocab: Vocabulary, budget: TokenBudget, *, captions: bool = False
) -> tuple[dict[int, frozenset[int]], Problems]:
    """Sentences of each entry that do not fit even alone (places in its sentences), and their names."""
    problems = Problems("expressions")
    found: dict[int, frozenset[int]] = {}
    # A byte is at most one id, so most sentences need no tokenizer.
    spare = budget.least - longest(vocab, "", captions=captions) - SPARE
    for i, places in table.longer_than(spare).items():
        entry, said = table.entry(i), table.sentences(i)
        bad = set()
        for place in places:
            ids = longest(vocab, phrase(said[place].text), captions=captions)
            if ids > budget.of(entry):
                bad.add(place)
                problems.add(describe(entry.name, said[place].sent_id, ids, budget, entry))
        if bad:
            found[i] = frozenset(bad)
    return found, problems


def describe(image: str, sent_id: int, ids: int, budget: TokenBudget, entry: Entry) -> str:
    """A line about a sentence that does not fit."""
    return (
        f"image {image} sentence {sent_id}: {ids} ids in the longest wording; {budget.of(entry)} fit "
        f"beside {counted(budget.tokens(entry), 'visual token')} ({budget.limit} positions)"
    )


def _ids(vocab: Vocabulary, turn: Turn) -> int:
    return len(build_dialogue(vocab, [turn], limit=ANY).ids)
