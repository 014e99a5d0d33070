"""Formatting of printed values: escaped untrusted text, sizes, durations, percentages, name lists.

File names and expressions may hold terminal codes.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from reprlib import Repr
from typing import Any, Protocol, cast

_BOUNDED = Repr()
_BOUNDED.maxlist = _BOUNDED.maxtuple = _BOUNDED.maxdict = 20
_BOUNDED.maxstring = _BOUNDED.maxother = 2000


class Report(Protocol):
    """Printed result of a command. As a base class of a dataclass it provides all but `lines`."""

    @property
    def exit_code(self) -> int:
        """Exit code of the command."""
        return 0

    def lines(self) -> Sequence[str]:
        """The report for people."""
        ...

    def to_json(self) -> dict[str, Any]:
        """The report for programs: plain values and paths."""
        return asdict(cast(Any, self)) | {"exit_code": self.exit_code}


def escape(text: str) -> str:
    r"""`text` with control, bidi-override and surrogate characters written as escapes.

    >>> escape("a\x1b[31mb\nc")
    'a\\x1b[31mb\\nc'
    """
    return "".join(c if _printable(c) else c.encode("unicode_escape").decode() for c in text)


def shorten(text: str, limit: int = 120) -> str:
    """`escape(text)` without credentials, cut in the middle to at most `limit` characters.

    >>> shorten("abcdefghij", 7)
    'abc...j'
    """
    text = hide_credentials(text)
    safe = escape(text if len(text) <= 2 * limit else text[:limit] + text[-limit:])
    if len(safe) <= limit:
        return safe
    tail = (limit - 3) // 4
    return f"{safe[: limit - 3 - tail]}...{safe[len(safe) - tail :] if tail else ''}"


_SCHEME = r"([A-Za-z][A-Za-z0-9+.-]{0,20}:/{1,2}"  # `Path` makes one slash of two
_USER = re.compile(_SCHEME + r")[^\s/@:]*:[^\s@]*@")
_QUERY = re.compile(_SCHEME + r"[^\s?'\"]*\?)[^\s'\"]+")


def hide_credentials(text: str) -> str:
    """`text` without what addresses in it hold before an @ or after a question mark.

    >>> hide_credentials("no s3://key:secret@bucket/a and az://c/x?sig=secret")
    'no s3://***@bucket/a and az://c/x?***'
    """
    if ":/" not in text:
        return text
    return _QUERY.sub(r"\1***", _USER.sub(r"\1***@", text))


def show(value: object, limit: int = 80) -> str:
    """`repr` of any untrusted value, bounded and printable, for use in an error message."""
    return shorten(value if isinstance(value, str) else _repr(value), limit)


def quote(value: object, limit: int = 80) -> str:
    """`show`, with a string in quotes, so that blanks and empty ones are seen.

    >>> quote(""), quote(7)
    ("''", '7')
    """
    return f"'{show(value, limit)}'" if isinstance(value, str) else show(value, limit)


_ONE = {"are": "is", "have": "has", "were": "was", "pass": "passes", "match": "matches"}


def counted(number: int, noun: str, verb: str = "") -> str:
    """A number with its noun, and a verb given in the plural.

    >>> counted(1, "file"), counted(1200, "process"), counted(1, "image", "are")
    ('1 file', '1,200 processes', '1 image is')
    """
    if number == 1:
        verb = _ONE.get(verb, f"{verb}s" if verb else "")
    else:
        noun += "es" if noun.endswith(("s", "ch")) else "s"
    return f"{number:,} {noun} {verb}".rstrip()


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


def duration(seconds: float | None) -> str:
    """Hours, minutes and seconds as people read them.

    >>> duration(3725), duration(42.4), duration(None)
    ('1:02:05', '0:42', '?')
    """
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(count: float) -> str:
    """Bytes as people read them.

    >>> size(1_234_000), size(97_700_000_000)
    ('1.2 MB', '97.7 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.1f} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1000
    return f"{count:.1f} TB"


def parse_size(text: str) -> int:
    """Bytes as people write them; kB to TB are powers of 1000, kiB to TiB of 1024.

    >>> parse_size("2TB"), parse_size("1.5 GiB"), parse_size("300")
    (2000000000000, 1610612736, 300)

    Raises ValueError, also for a number that is none to a computer (10^400).
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(?:([kMGT])(i?))?B?", text.strip(), re.IGNORECASE)
    if not found:
        raise ValueError(text)
    number, prefix, binary = found.groups()
    unit: int = (1024 if binary else 1000) ** " kmgt".index((prefix or " ").lower())
    try:
        return round(float(number) * unit)
    except OverflowError:
        raise ValueError(text) from None


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    r"""A Markdown table.

    >>> markdown_table(("part", "ms"), [("SAM", "7")])
    '| part | ms |\n|---|---|\n| SAM | 7 |'
    """
    first, *rest = (f"| {' | '.join(row)} |" for row in (head, *rows))
    return "\n".join([first, "|---" * len(head) + "|", *rest])


def share(value: float) -> str:
    """A share 0 to 1 as percent; only nothing is rounded to nothing, only all to all.

    >>> share(0.5), share(0.0004), share(0.0), share(0.9997), share(1.0)
    ('50.0 %', '< 0.1 %', '0 %', '> 99.9 %', '100 %')
    """
    if value in (0.0, 1.0):
        return f"{value:.0%}".replace("%", " %")
    sign = "< " if value < 0.0005 else "> " if value > 0.9995 else ""
    return sign + f"{min(0.999, max(0.001, value)):.1%}".replace("%", " %")


def fold(names: Iterable[str]) -> list[str]:
    """Names that differ in their first number only become one, e.g. `model.layers.{0-30,33}.x`.

    >>> fold(["a.0.x", "a.1.x", "a.3.x", "b"])
    ['a.{0-1,3}.x', 'b']
    """
    forms: dict[str, list[int]] = {}
    for name in names:
        found = re.search(r"(?<=\.)\d{1,9}(?=\.)", name)
        form = f"{name[: found.start()]}\0{name[found.end() :]}" if found else name
        forms.setdefault(form, []).extend([int(found[0])] if found else [])
    return [show(form.replace("\0", _ranges(numbers)), 200) for form, numbers in forms.items()]


def _ranges(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    runs = []
    for _, run in groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0]):
        values = [value for _, value in run]
        runs.append(str(values[0]) if len(values) == 1 else f"{values[0]}-{values[-1]}")
    return "{" + ",".join(runs) + "}"
