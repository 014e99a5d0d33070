"""Collecting what is wrong with a file, so that a user sees all of it at once (up to 100)."""

from ..errors import DataError

LIMIT = 100


class Problems:
    """Problems of one file, each one line that names its record; `found` counts all of them."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.lines: list[str] = []
        self.found = 0

    def add(self, line: object) -> None:
        """Note one problem; beyond the limit only the count grows."""
        self.found += 1
        if len(self.lines) < LIMIT:
            self.lines.append(str(line))

    def raise_if_any(self) -> None:
        """One DataError that lists them; its `problems` are the single lines."""
        if not self.found:
            return
        more = f" (the first {LIMIT} shown)" if self.found > LIMIT else ""
        count = "1 problem" if self.found == 1 else f"{self.found} problems{more}"
        error = DataError(f"{self.where}: {count}: {'; '.join(self.lines)}")
        error.problems = tuple(self.lines)
        raise error
