"""What is asked and answered: GLaMM's wordings for referring segmentation.

Sources: spec ris.md 2 (GLaMM dataset/utils/utils.py:87-115). Question and answer are drawn
independently for each sentence, by a key and never from a global generator, so a sample is the same
whatever rank or thread makes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ...pipeline.errors import DataError
from ...pipeline.sources.wording import expression_problem
from ...pipeline.text import quote
from ..hashing import Choices

SEG = "[SEG]"
SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the human's questions."
)
_WORDINGS = (
    "Can you segment the {} in this image?",
    "Please segment {} in this image.",
    "What is {} in this image? Please respond with segmentation mask.",
    "What is {} in this image? Please output segmentation mask.",
    "Could you provide a segmentation mask for the {} in this image?",
    "Please identify and segment the {} in this image.",
    "Where is the {} in this picture? Please respond with a segmentation mask.",
    "Can you highlight the {} in this image with a segmentation mask?",
)
QUESTIONS = (*_WORDINGS, *(wording[:-1] for wording in _WORDINGS))  # with and without the last mark
ANSWERS = (
    "It is [SEG].",
    "Sure, [SEG].",
    "Sure, it is [SEG].",
    "Sure, the segmentation result is [SEG].",
    "[SEG].",
)
FIXED_QUESTION, FIXED_ANSWER = "Please segment {} in this image.", "It is [SEG]."


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its answer; `answer` None leaves the dialogue open, to be generated."""

    question: str
    answer: str | None


def choose_turns(texts: Sequence[str], key: int) -> tuple[Turn, ...]:
    """One turn per expression, wordings drawn by `key`. Raises DataError as `phrase` does."""
    choices = Choices(key)
    return tuple(
        Turn(choices.pick(QUESTIONS).format(phrase(text)), choices.pick(ANSWERS)) for text in texts
    )


def fixed_turn(text: str) -> Turn:
    """The turn of evaluation protocol `full`: nothing is random. Raises DataError as `phrase`."""
    return Turn(FIXED_QUESTION.format(phrase(text)), FIXED_ANSWER)


def open_turn(text: str) -> Turn:
    """`fixed_turn` without its answer: what generation starts from."""
    return Turn(FIXED_QUESTION.format(phrase(text)), None)


def phrase(text: str) -> str:
    """An expression as prompts hold it: stripped, lower case.

    Raises DataError if it is empty, too long or holds a control character or a special token.
    """
    if problem := expression_problem(text):
        raise DataError(f"expression {quote(text)} {problem}")
    return text.strip().lower()
