"""Validation rules for referring expressions: text that would break a prompt or a terminal."""

import re
import unicodedata

MAX_EXPRESSION = 512  # characters after strip

# Tokens of LLaVA, GLaMM, LISA and LLaMA prompts: in an expression they would shift the positions
# at which the model looks for the image and the mask.
SPECIAL = re.compile(
    r"\[(?:SEG|REJ|PAD|CLS|SEP|MASK|INST|/INST)\]"
    r"|</?(?:s|p|image|im_start|im_end|im_patch|bbox|point|unk|pad|seg|ref|box|grounding)>"
    r"|<\|[^|>]{0,40}\|>|<<|>>|<0x[0-9A-Fa-f]{2}>",
    re.IGNORECASE,
)


# Letters and symbols by category, blank on paper: Hangul fillers and the empty Braille cell.
_BLANK = frozenset("\u115f\u1160\u3164\uffa0\u2800")


from ..display import counted


def expression_problem(text: str) -> str | None:
    """Reason why `text` cannot be an expression, or None.

    >>> expression_problem("man on the left"), expression_problem(" ")
    (None, 'is empty')
    >>> expression_problem("\\u200b")  # a zero-width space
    'is empty: it holds invisible characters only'
    >>> expression_problem("the [SEG] cup")
    'holds the special token [SEG]'
    """
    stripped = text.strip()
    if not any(map(_visible, stripped)):
        return "is empty" if not stripped else "is empty: it holds invisible characters only"
    if len(stripped) > MAX_EXPRESSION:
        return f"has {counted(len(stripped), 'character')}; at most {MAX_EXPRESSION}"
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in stripped):
        return "holds a control character"
    if match := SPECIAL.search(stripped):
        return f"holds the special token {match[0]}"
    return None


def _visible(char: str) -> bool:
    # Control and lone surrogates (C) count as something here: they are refused by their own name.
    category = unicodedata.category(char)
    return char not in _BLANK and (category in ("Cc", "Cs") or category[0] not in "CMZ")
