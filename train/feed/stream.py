"""What the loop asks of its data: global batches in an order it does not know, and their cursors."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from pydantic import JsonValue

from ...model.batch import Batch

Cursor = Mapping[str, JsonValue]


@dataclass(frozen=True)
class Step:
    """This rank's share of one global batch.

    batches  its micro-batches, on the CPU, valid until the next step is asked for
    images   per micro-batch, the images by dataset and id: to name a batch that fails
    cursor   position after this step; equal on all ranks
    """

    batches: tuple[Batch, ...]
    images: tuple[tuple[str, ...], ...]
    cursor: Cursor


class Stream(Protocol):
    """An endless sequence of global batches that can start anywhere.

    identity  digests of what it reads, by name
    """

    @property
    def identity(self) -> Mapping[str, str]:
        """Digests of caches and table, by name."""
        ...

    def start(self) -> Cursor:
        """The cursor before the first step."""
        ...

    def steps(self, cursor: Cursor) -> Iterator[Step]:
        """Steps from `cursor` on. Raises DataError if it belongs to other data."""
        ...
