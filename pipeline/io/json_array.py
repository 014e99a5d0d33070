"""A JSON array in a file, written item by item, as a cache's masks may not fit in memory."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Self


class JsonArray:
    """The array of a new file, behind the text `head`."""

    def __init__(self, path: Path, head: str = "") -> None:
        self._file, self._count = path.open("w", encoding="utf-8"), 0
        self._file.write(f"{head}[")

    def __len__(self) -> int:
        return self._count

    def add(self, item: Mapping[str, object]) -> None:
        """Write one item, on a line of its own."""
        self._file.write(("," if self._count else "") + "\n" + json.dumps(item))
        self._count += 1

    def end(self, tail: str = "") -> None:
        """Close the array; `tail` follows."""
        self._file.write(f"]{tail}\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
