"""Weight references: where the weights of a model come from, as recipes write it."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from ..display import show
from ..errors import ConfigError

Kind = Literal["auto", "none", "given", "shipped", "random", "sha256", "svp"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# How each is written, and the pattern of what follows the colon.
_FORMS: dict[Kind, tuple[str, str]] = {
    "auto": ("auto", ""),
    "none": ("none", ""),
    "given": ("given", ""),
    "shipped": ("shipped", "(:[0-9a-f]{16})?"),
    "random": ("random:<seed>", ":[0-9]{1,18}"),
    "sha256": ("sha256:<64 hex digits>", ":[0-9a-f]{64}"),
    "svp": ("svp:<64 hex digits>", "(:[0-9a-f]{64})?"),
}


def forms(kinds: tuple[Kind, ...]) -> str:
    """Accepted forms, as text: "shipped, random:<seed> or sha256:<64 hex digits>"."""
    *others, last = (_FORMS[kind][0] for kind in kinds)
    return f"{', '.join(others)} or {last}" if others else last


@dataclass(frozen=True, slots=True)
class WeightsRef:
    """Reference to the weights of one model; `str()` gives the text that `parse` read.

    kind   auto     not decided: a file of a known name is looked for
           none     the model has no such part of its own
           given    a file or folder that an option of the command names
           shipped  in this package; value: of a run, the first 16 hex digits of their sha256
           random   untrained; value: the seed
           sha256   a file or folder; value: its digest
           svp      a folder of `svp export`; value: its digest
    value  what follows the colon, or ""
    """

    kind: Kind
    value: str = ""

    @classmethod
    def parse(
        cls, text: object, kinds: tuple[Kind, ...] = KINDS, where: str = "weights"
    ) -> "WeightsRef":
        """The reference that a recipe writes as `text`.

        Raises ConfigError, naming the field `where`, for what is none of `kinds`.
        """
        kind, _, value = str(text).partition(":")
        for known in kinds if isinstance(text, str) else ():
            if kind == known and re.fullmatch(f"{known}{_FORMS[known][1]}", str(text)):
                return cls(known, value)
        raise ConfigError(f"{where}={show(text)}: write {forms(kinds)}")

    @classmethod
    def from_option(
        cls, given: str | None, kinds: tuple[Kind, ...], flag: str
    ) -> "WeightsRef | None":
        """Parse an option `flag` that names no file: one of `kinds`; None for a path.

        `random` alone has seed 0. Raises ConfigError.
        """
        if given is None or given.partition(":")[0] not in kinds:
            return None
        return cls("random", "0") if given == "random" else cls.parse(given, kinds, flag)

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}" if self.value else self.kind

    @property
    def seed(self) -> int:
        """Of random weights."""
        return int(self.value)

    @property
    def on_disk(self) -> bool:
        """Whether a file or folder of this digest is meant."""
        return self.kind in ("sha256", "svp") and bool(self.value)


SHIPPED = WeightsRef("shipped")
NONE = WeightsRef("none")
