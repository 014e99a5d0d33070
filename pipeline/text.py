"""Untrusted text made safe to print: file names and expressions may hold terminal codes."""

import unicodedata


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
    safe = escape(text)
    if len(safe) <= limit:
        return safe
    tail = (limit - 3) // 4
    return f"{safe[: limit - 3 - tail]}...{safe[len(safe) - tail :] if tail else ''}"


def show(value: object, limit: int = 80) -> str:
    """`repr` of any untrusted value, bounded and printable, for use in an error message."""
    return shorten(value if isinstance(value, str) else repr(value), limit)


def _printable(char: str) -> bool:
    # Cf holds the bidi overrides that make a line read differently from what it says.
    return unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
