"""Untrusted text made safe to print: file names and expressions may hold terminal codes."""

import unicodedata
from reprlib import Repr

_BOUNDED = Repr()
_BOUNDED.maxlist = _BOUNDED.maxtuple = _BOUNDED.maxdict = 20
_BOUNDED.maxstring = _BOUNDED.maxother = 2000


def escape(text: str) -> str:
    r"""`text` with control, bidi-override and surrogate characters written as escapes.

    >>> escape("a\x1b[31mb\nc")
    'a\\x1b[31mb\\nc'
    """
    return "".join(c if _printable(c) else c.encode("unicode_escape").decode() for c in text)


def shorten(text: str, limit: int = 120) -> str:
    """`escape(text)`, cut in the middle to at most `limit` characters.

    >>> shorten("abcdefghij", 7)
    'abc...j'
    """
    safe = escape(text if len(text) <= 2 * limit else text[:limit] + text[-limit:])
    if len(safe) <= limit:
        return safe
    tail = (limit - 3) // 4
    return f"{safe[: limit - 3 - tail]}...{safe[len(safe) - tail :] if tail else ''}"


def show(value: object, limit: int = 80) -> str:
    """`repr` of any untrusted value, bounded and printable, for use in an error message."""
    return shorten(value if isinstance(value, str) else _repr(value), limit)


def quote(value: object, limit: int = 80) -> str:
    """`show`, with a string in quotes, so that blanks and empty ones are seen.

    >>> quote(""), quote(7)
    ("''", '7')
    """
    return f"'{show(value, limit)}'" if isinstance(value, str) else show(value, limit)


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "file"), counted(1200, "photograph")
    ('1 file', '1,200 photographs')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _repr(value: object) -> str:
    """A bounded repr: data may be huge, nested past the stack, or an int too long to print."""
    try:
        return _BOUNDED.repr(value)
    except (ValueError, RecursionError):
        return f"<{type(value).__name__}>"


def _printable(char: str) -> bool:
    # Cf holds the bidi overrides that make a line read differently from what it says; what is not
    # assigned yet (Cn) may be one of them to a newer terminal.
    return unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
