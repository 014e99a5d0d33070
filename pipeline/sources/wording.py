"""What an expression may not be: text that would break a prompt or a terminal."""

import re
import unicodedata

MAX_EXPRESSION = 512  # characters after strip

# Tokens of LLaVA, GLaMM, LISA and LLaMA prompts: in an expression they would shift the positions
# at which the model looks for the image and the mask.
SPECIAL = re.compile(
    r"\[(?:SEG|PAD|CLS|SEP|MASK|INST|/INST)\]"
    r"|</?(?:s|p|image|im_start|im_end|im_patch|bbox|point|unk|pad|seg|ref|box|grounding)>"
    r"|<\|[^|>]{0,40}\|>|<<|>>|<0x[0-9A-Fa-f]{2}>",
    re.IGNORECASE,
)


def expression_problem(text: str) -> str | None:
    """Why `text` cannot be an expression, or None.

    >>> expression_problem("man on the left"), expression_problem(" ")
    (None, 'is empty')
    >>> expression_problem("the [SEG] cup")
    'holds the special token [SEG]'
    """
    stripped = text.strip()
    if not stripped:
        return "is empty"
    if len(stripped) > MAX_EXPRESSION:
        return f"has {len(stripped)} characters; at most {MAX_EXPRESSION}"
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in stripped):
        return "holds a control character"
    if match := SPECIAL.search(stripped):
        return f"holds the special token {match[0]}"
    return None
