"""Decide whether an answer is that nothing is meant: by [REJ], or by token answers.

A model with [REJ] always decides, by its chance against [SEG]. One without it but with token answers
can tell, for no token of an expression without a target is meant; it decides where a chance to
reject above is given, and answers with a mask otherwise, as it was trained.
"""

from collections.abc import Sequence

from ...model.batch import Batch
from ...model.projectors.token_answer import none_meant
from ...model.ris import Reply, RisModel
from ..data.tokenizer import Vocabulary

HALF = 0.5  # where [REJ] is more likely than [SEG]


def rejections(
    model: RisModel, batch: Batch, reply: Reply, vocab: Vocabulary, above: float | None
) -> Sequence[float | None]:
    """Chance for each of S answers that nothing is meant; None where nobody asks.

    above  chance above which to reject, if one is given
    """
    if vocab.rej is not None:
        found: list[float] = model.rejection(reply.before, vocab.seg, vocab.rej).tolist()
    elif above is not None:
        found = none_meant(model.meant(reply, batch)).tolist()
    else:
        return [None] * len(reply.before)
    return found


def rejects(chance: float | None, above: float | None) -> bool:
    """Whether the answer is that nothing is meant, by its chance; `above` None: one half."""
    return chance is not None and chance > (HALF if above is None else above)
