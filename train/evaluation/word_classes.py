"""Word classes of an expression: attribute, size, position, relation, plain.

Generated scenes come with the classes of every sentence (`word_classes.json`), and a set of one's own
may: there they may have other names, such as world 2's "binding" and "outline". For the rest words
decide: a short list per class, relations first, because "left of the dog" is a relation and "left
dog" a position. The lists are meant for slicing results, not for linguistics.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ...pipeline.display import show
from ...pipeline.errors import DataError, MissingError

CLASSES = ("attribute", "size", "position", "relation")
PLAIN = "plain"  # an expression with words of no class
FILE = "word_classes.json"
MAX_BYTES = 256 << 20
MOST = 40  # names of classes in a file
_NAME = re.compile(r"[^\W_][\w -]{0,39}")

_RELATION = """
    next to|close to|closest to|nearest to|near|beside|besides|behind|between|in front of|ahead of|
    on top of|underneath|under|beneath|below|above|over|against|across from|opposite|around|inside|
    left of|right of|to the left of|to the right of|with|without|wearing|holding|carrying|riding|
    eating|touching|facing|looking at|sitting (?:on|in|at|by)|standing (?:on|in|at|by)|
    leaning (?:on|against)|by the|in the|on the
"""
_NOT_RELATION = """
    on the (?:far )?(?:left|right|top|bottom|side|end)|in the (?:middle|center|centre|front|back|corner)|
    in the (?:far )?(?:background|foreground)|to the (?:far )?(?:left|right)(?! of)
"""
_POSITION = """
    left|right|leftmost|rightmost|top|bottom|upper|lower|middle|mid|center|centre|central|corner|
    front|back|rear|background|foreground|far|farthest|furthest|closest|nearest|first|second|third|
    fourth|last|side|edge|end|end of row
"""
_SIZE = """
    big|bigger|biggest|large|larger|largest|small|smaller|smallest|little|tiny|huge|tall|taller|
    tallest|short|shorter|shortest|long|longer|longest|wide|widest|thin|thick|fat|skinny|medium
"""
_ATTRIBUTE = """
    red|orange|yellow|green|blue|purple|violet|pink|black|white|gr[ae]y|brown|tan|beige|blonde?|
    silver|gold|golden|dark|darker|darkest|light|lighter|bright|colou?rful|plain|striped|stripes?|
    dotted|polka|checked|checkered|plaid|spotted|patterned|wooden|metal|glass|plastic|leather|old|
    young|older|younger|bald|shirtless|open|closed|empty|full|broken|blurry|wet|dirty|clear
"""


def _words(text: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{''.join(line.strip() for line in text.splitlines())})\b")


_PATTERNS = {
    "attribute": _words(_ATTRIBUTE),
    "size": _words(_SIZE),
    "position": _words(_POSITION),
    "relation": _words(_RELATION),
}
_PLACES = _words(_NOT_RELATION)


def word_classes(text: str) -> list[str]:
    """The classes whose words occur in `text`, in the order of `CLASSES`.

    >>> word_classes("large red bus"), word_classes("man left of the dog")
    (['attribute', 'size'], ['relation'])
    >>> word_classes("guy on the left"), word_classes("zebra")
    (['position'], [])
    """
    rest = text.lower()
    found = {"position"} if _PLACES.search(rest) else set()
    rest = _PLACES.sub(" . ", rest)
    if _PATTERNS["relation"].search(rest):
        found.add("relation")
        rest = _PATTERNS["relation"].sub(" . ", rest)
    found |= {name for name in CLASSES[:3] if _PATTERNS[name].search(rest)}
    return [name for name in CLASSES if name in found]


def named_classes(rows: Iterable[Iterable[str]]) -> list[str]:
    """`CLASSES`, then every other class that stands in `rows`, in alphabetical order."""
    return [*CLASSES, *sorted({name for row in rows for name in row} - set(CLASSES))]


def known_classes(folder: Path) -> Mapping[int, list[str]] | None:
    """Classes by sentence from `word_classes.json` in `folder` or the one above; None without it.

    Raises DataError if the file is not what the scene generator writes.
    """
    for place in (folder, folder.parent):
        if (place / FILE).is_file():
            return _read(place / FILE)
    return None


def _read(path: Path) -> dict[int, list[str]]:
    if path.stat().st_size > MAX_BYTES:
        raise DataError(
            f"{show(str(path), 200)}: over {MAX_BYTES} bytes: not a list of word classes"
        )
    try:
        raw = json.loads(path.read_text("utf-8"))["sentences"]
        found = {int(sent_id): [*classes] for sent_id, classes in raw.items()}
        if not all(isinstance(classes, list) for classes in raw.values()):
            raise TypeError("classes of a sentence: want a list")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{show(str(path), 200)}: not word classes by sentence: {error}") from None
    except OSError as error:
        raise MissingError(f"{show(str(path), 200)}: {error.strerror}") from None
    names: set[str] = set()
    for sent_id, classes in found.items():
        for name in classes:
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise DataError(
                    f"{show(str(path), 200)}: sentence {sent_id}: class {show(name)}: want a word of at "
                    "most 40 letters"
                )
        names.update(classes)
        if len(names) > MOST:
            raise DataError(f"{show(str(path), 200)}: sentence {sent_id}: more than {MOST} classes")
    return found
