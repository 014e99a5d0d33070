"""Interface of the rows of a plan, stored or computed."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ..records import Quarantined, Superpixels
from ..store import Place
from .plan import Plan

Array = NDArray[Any]
Status = Literal["ok", "quarantined", "missing"]


class RowReader(Protocol):
    """The rows of a plan, wherever they come from: `CacheReader` reads stored ones, training's
    `LiveReader` computes them. Row `i` is the plan's image `i`; arrays as in `CacheReader`.
    """

    @property
    def path(self) -> Place:
        """The cache folder or its store."""

    @property
    def plan(self) -> Plan:
        """The plan of the cache."""

    @property
    def index_of(self) -> Mapping[int, int]:
        """Image id -> row."""

    @property
    def quarantined(self) -> tuple[Quarantined, ...]:
        """The images that could not be processed, by row."""

    @property
    def complete(self) -> bool:
        """Whether every row is stored."""

    @property
    def counts(self) -> NDArray[np.uint16]:
        """(N,) superpixels per image, 0 where no row is stored."""

    def __len__(self) -> int: ...

    def status(self, i: int) -> Status:
        """Whether row `i` can be had."""

    def count(self, i: int) -> int:
        """Superpixels n of row `i`."""

    def most(self, i: int) -> int:
        """Superpixels of row `i` at most, without computing it."""

    def superpixels(self, i: int) -> Superpixels:
        """The superpixels of row `i`."""

    def areas(self, i: int) -> NDArray[np.int32]:
        """(n,) pixels of each superpixel."""

    def cover(self, i: int) -> NDArray[np.float16]:
        """(n,P) share of each patch that each superpixel covers."""

    def sspe_masks(self, i: int) -> NDArray[np.uint8]:
        """(n,ceil(G/8)) bit-packed masks on the SSPE grid."""

    def pooled(self, i: int, out: NDArray[np.float16] | None = None) -> NDArray[np.float16]:
        """(n,C) mean of the patch features under each superpixel, see `CacheReader.pooled`."""

    def order(self, i: int) -> NDArray[np.uint16]:
        """(n,) the superpixels, the first to be kept first."""

    def worth(self, i: int) -> NDArray[np.float16]:
        """(n,) worth of each superpixel."""

    def features(self, i: int, out: NDArray[np.float16] | None = None) -> NDArray[np.float16]:
        """(P,C) patch features."""

    def layers(self, i: int) -> NDArray[np.float16]:
        """(L,P,C) extra encoder layers."""

    def cls(self, i: int, out: NDArray[np.float16] | None = None) -> NDArray[np.float16]:
        """(C,) CLS token."""

    def sam(self, i: int, out: NDArray[np.float16] | None = None) -> NDArray[np.float16]:
        """SAM image embedding of shape `plan.sam`."""

    def gather(
        self, rows: Sequence[int], into: Mapping[str, Sequence[Array]], beside: Sequence[str] = ()
    ) -> None:
        """Fill `into` (field -> an array per row), and make ready the arrays `beside` of the rows."""
