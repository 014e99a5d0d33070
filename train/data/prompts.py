"""Question and answer templates of GLaMM and LISA.

GLaMM: mbzuai-oryx/groundingLMM dataset/utils/utils.py:87-115 and conversation template llava_v1.
LISA: JIA-Lab-research/LISA utils/utils.py, utils/dataset.py, the same template. Question and answer
are drawn independently for each sentence, by a key and never from a global generator, so a sample is
the same whatever rank or thread makes it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ...pipeline.datasets.expressions import expression_problem
from ...pipeline.display import quote
from ...pipeline.errors import DataError
from .keyed_rng import Choices

SEG = "[SEG]"
REJ = "[REJ]"  # in its place where nothing is meant, as GSVA answers (arXiv:2312.10103)
IM_START, IMAGE, IM_END, EOS = "<im_start>", "<image>", "<im_end>", "</s>"  # as segments name them
SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the human's questions."
)
ANSWERS = (
    "It is [SEG].",
    "Sure, [SEG].",
    "Sure, it is [SEG].",
    "Sure, the segmentation result is [SEG].",
    "[SEG].",
)
_GLAMMS = (
    "Can you segment the {} in this image?",
    "Please segment {} in this image.",
    "What is {} in this image? Please respond with segmentation mask.",
    "What is {} in this image? Please output segmentation mask.",
    "Could you provide a segmentation mask for the {} in this image?",
    "Please identify and segment the {} in this image.",
    "Where is the {} in this picture? Please respond with a segmentation mask.",
    "Can you highlight the {} in this image with a segmentation mask?",
)

DESCRIBE = (  # questions that a caption answers
    "What can be seen in this image?",
    "Please describe this image.",
    "What is where in this image?",
)


@dataclass(frozen=True, slots=True)
class Wording:
    """Prompt templates of one family of weights.

    before, after          text between "USER: " and the image, and between the image and the first
                           question
    questions, answers     what training draws from; "{}" is the expression
    question, answer       of protocol `full`, in which nothing is random
    """

    name: str
    before: str
    after: str
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    question: str
    answer: str


GLAMM = Wording(
    "glamm",
    "The ",
    " provides an overview of the picture.\n",
    (*_GLAMMS, *(wording[:-1] for wording in _GLAMMS)),  # with and without the last mark
    ANSWERS,
    "Please segment {} in this image.",
    "It is [SEG].",
)
# LISA's validation asks one question only; the line break after the image is LISA's, and dropped as
# all blanks beside a special token are.
LISA = Wording(
    "lisa",
    "",
    "\n",
    (
        "Can you segment the {} in this image?",
        "Please segment the {} in this image.",
        "What is {} in this image? Please respond with segmentation mask.",
        "What is {} in this image? Please output segmentation mask.",
    ),
    ANSWERS,
    "What is {} in this image? Please output segmentation mask.",
    "[SEG].",
)

# A model with a chat template was trained with neither: no ids of a turn but those that matter.
CHAT = Wording("chat", "", "\n", ("Segment {}.",), ("[SEG]",), "Segment {}.", "[SEG]")


class Segment(NamedTuple):
    """Plain text, or one special token."""

    text: str
    special: bool = False
    supervised: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its answer; `answer` None leaves the dialogue open, to be generated."""

    question: str
    answer: str | None

    def rejected(self) -> "Turn":
        """The same question, answered with [REJ] where [SEG] would stand."""
        assert self.answer is not None
        return Turn(self.question, self.answer.replace(SEG, REJ))


def choose_turns(texts: Sequence[str], key: int, wording: Wording = GLAMM) -> tuple[Turn, ...]:
    """One turn per expression, wordings drawn by `key`. Raises DataError as `phrase` does."""
    choices = Choices(key)
    return tuple(
        Turn(choices.pick(wording.questions).format(phrase(text)), choices.pick(wording.answers))
        for text in texts
    )


def choose_captions(texts: Sequence[str], key: int) -> tuple[Turn, ...]:
    """One turn per text, which is its answer; questions drawn by `key`. Raises DataError as `phrase`."""
    choices = Choices(key)
    return tuple(Turn(choices.pick(DESCRIBE), f"{phrase(text).rstrip('.')}.") for text in texts)


def answer_segments(answer: str) -> Iterator[Segment]:
    """An answer in pieces, all supervised; [SEG] and [REJ] are pieces of their own."""
    for number, text in enumerate(_MARKS.split(answer)):
        if text:
            yield Segment(text, special=number % 2 == 1, supervised=True)


_MARKS = re.compile(f"({re.escape(SEG)}|{re.escape(REJ)})")


def fixed_turn(text: str, wording: Wording = GLAMM) -> Turn:
    """The turn of evaluation protocol `full`: nothing is random. Raises DataError as `phrase`."""
    return Turn(wording.question.format(phrase(text)), wording.answer)


def phrase(text: str) -> str:
    """An expression as prompts hold it: stripped, lower case.

    Raises DataError if it is empty, too long or holds a control character or a special token.
    """
    if problem := expression_problem(text):
        raise DataError(f"expression {quote(text)} {problem}")
    return text.strip().lower()
