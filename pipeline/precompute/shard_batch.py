"""A batch of images on its way through the stages of a worker (`shard_task`)."""

from dataclasses import dataclass, field
from typing import Any

from ..cache.layers import COVER
from ..cache.plan import PlanImage
from ..records import ImageRow, Quarantined, Superpixels
from .lender import FIELDS
from .source_images import Pixels

Entry = ImageRow | Quarantined


@dataclass
class Batch:
    """State of the images of a batch, by row of the shard.

    images  that are touched: not those that kill their worker
    kinds   of the layers to make
    stored  superpixels that the cache has already
    pixels  photographs, from the first stage to the second
    """

    rows: range
    images: dict[int, PlanImage]
    kinds: frozenset[str]
    stored: dict[int, Superpixels | Quarantined]
    pixels: dict[int, Pixels] = field(default_factory=dict)
    parts: dict[int, dict[str, Any]] = field(init=False)
    refused: dict[int, dict[str, Quarantined]] = field(init=False)
    entries: dict[int, Entry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.parts = {row: {} for row in self.images}
        self.refused = {row: {} for row in self.images}

    def lacks(self, row: int) -> set[str]:
        """Kinds of which an image has no value yet."""
        return {kind for kind in self.kinds - {COVER} if FIELDS[kind] not in self.parts[row]}
