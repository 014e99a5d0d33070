"""Photographs and expressions that `svp predict` is asked about: one, a folder, or lines of JSONL."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...pipeline.datasets.expressions import expression_problem
from ...pipeline.datasets.jsonl_lines import MAX_LINE
from ...pipeline.datasets.listing import list_images
from ...pipeline.datasets.photo_files import photo_file
from ...pipeline.display import quote, show
from ...pipeline.errors import ConfigError, DataError, MissingError
from ...pipeline.io.json_files import parse_line
from ...pipeline.io.paths import safe_join
from .photo import photo_header

LINES = ".jsonl"


@dataclass(frozen=True)
class Question:
    """One photograph and what is asked about it.

    name    of the photograph in messages and records: its path
    photo   its path, or its bytes where it lies in an archive
    """

    name: str
    photo: Path | bytes
    expressions: tuple[str, ...]


def questions(asked: Path, expressions: tuple[str, ...]) -> tuple[list[Question], list[str]]:
    """Photographs, each once with its expressions, and notices.

    asked        a photograph; a folder of photographs; a file NAME.jsonl with `image` (a path
                 relative to the file) and `expression` (a text or a list) per line
    expressions  of a photograph, or of each in the folder or the file, before those of its lines

    Raises ConfigError (no expression), MissingError (no photograph), DataError naming the line.
    """
    require_photographs(asked, expressions)
    if asked.suffix == LINES:
        return _of_lines(asked, expressions), []
    if asked.is_dir():
        return _of_folder(asked, expressions)
    return [Question(show(str(asked), 4096), asked, expressions)], []


def require_photographs(asked: Path, expressions: tuple[str, ...]) -> None:
    """Refuse at once what names no photograph or no expression. Raises as `questions`."""
    if asked.suffix == LINES:
        if not asked.is_file():
            raise MissingError(f"{show(str(asked), 300)}: no such file")
    elif not expressions:
        raise ConfigError(
            'give at least one expression: svp predict PHOTO "the man left of the umbrella"'
        )
    elif not asked.is_dir():
        photo_header(asked)


def _of_folder(folder: Path, expressions: tuple[str, ...]) -> tuple[list[Question], list[str]]:
    found = list_images(folder)
    notices = found.notices()
    if not found.names:
        why = "".join(f"; {line}" for line in notices)
        raise MissingError(f"{show(str(folder), 300)}: no image in a format that svp reads{why}")
    asked = []
    for name in found.names:
        path = folder / name
        photo: Path | bytes = path
        if not path.is_file():  # a member of a tar file
            with photo_file(folder, name, show(name, 300)).open() as file:
                photo = file.read()
        asked.append(Question(show(str(path), 4096), photo, expressions))
    return asked, notices


def _of_lines(path: Path, expressions: tuple[str, ...]) -> list[Question]:
    """Lines about one photograph are one question, at the place of the first."""
    asked: dict[Path, list[str]] = {}
    for where, name, own in _lines(path):
        texts = asked.setdefault(safe_join(path.parent, name, where), [*expressions])
        texts += own
        if not texts:
            raise DataError(f"{where}: no `expression`, and none was given for all lines")
    if not asked:
        raise DataError(f"{show(str(path), 300)}: holds no line")
    return [
        Question(show(str(photo), 4096), photo, tuple(dict.fromkeys(texts)))
        for photo, texts in asked.items()
    ]


def _lines(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    """(place, image, expressions) per line; other fields, such as a mask, are not read."""
    with path.open("rb") as file:
        number = 0
        while data := file.readline(MAX_LINE + 1):
            number += 1
            where = f"{show(str(path), 300)}: line {number}"
            if len(data) > MAX_LINE:
                raise DataError(f"{where}: longer than {MAX_LINE} bytes")
            if not data.strip():
                continue
            row = parse_line(data, where)
            if not isinstance(row, dict) or not isinstance(row.get("image"), str):
                raise DataError(f"{where}: want an object with `image`, the path of a photograph")
            texts = row.get("expression", [])
            texts = [texts] if isinstance(texts, str) else texts
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise DataError(f"{where}: `expression` is neither a text nor a list of texts")
            for text in texts:
                if problem := expression_problem(text):
                    raise DataError(f"{where}: expression {quote(text)} {problem}")
            yield where, row["image"], texts
