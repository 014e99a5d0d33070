"""A drawn figure: its PNG and the words beside it."""

from dataclasses import dataclass


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
