"""Where a stream of samples goes on: a few numbers and digests, no state of ranks or threads."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from ...pipeline.errors import CacheError, PlanMismatchError
from ...pipeline.recipe import explain
from ...pipeline.text import show


class Cursor(BaseModel):
    """The position before global batch `step`, and all that the order of samples depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    caches: list[str]
    table: str
    seed: int
    sampling: str
    sentences: int
    global_batch: int
    order_version: int
    step: Annotated[int, Field(ge=0)]

    def at(self, step: int) -> "Cursor":
        """The same stream before global batch `step`."""
        return self.model_copy(update={"step": step})

    def to_json(self) -> dict[str, JsonValue]:
        """Plain values, for a checkpoint."""
        return self.model_dump(mode="json")

    def goes_on(self, raw: Mapping[str, JsonValue]) -> "Cursor":
        """A stored cursor, if it belongs to this stream.

        Raises CacheError if it is no cursor, PlanMismatchError naming every field that differs:
        another cache, seed or batch would repeat some samples and skip others without a word.
        """
        try:
            other = Cursor.model_validate(raw)
        except ValidationError as error:
            raise CacheError(
                f"the checkpoint's data cursor is damaged: {explain(error, Cursor)}"
            ) from None
        mine, theirs = self.at(0).to_json(), other.at(0).to_json()
        different = [
            f"{name}: {show(theirs[name], 100)} there, {show(mine[name], 100)} here"
            for name in mine
            if mine[name] != theirs[name]
        ]
        if different:
            raise PlanMismatchError(
                f"the checkpoint belongs to another stream of samples: {'; '.join(different)}: "
                "resume with the data and recipe it was made with"
            )
        return other
