"""A drawn figure: its PNG and the words beside it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Picture:
    """`name` is the file's, without ending; `png` is None where there was nothing to draw.

    paper  which figure of the paper it stands for
    text   what is to be seen, or why nothing is
    """

    name: str
    title: str
    paper: str
    text: str
    png: bytes | None = None


def numbered(pictures: Sequence[Picture]) -> list[Picture]:
    """Pictures of one kind with names of their own: `sspe`, `sspe-2`, ..."""
    seen: Counter[str] = Counter()
    found = []
    for picture in pictures:
        seen[picture.name] += 1
        count = seen[picture.name]
        found.append(picture if count == 1 else replace(picture, name=f"{picture.name}-{count}"))
    return found
