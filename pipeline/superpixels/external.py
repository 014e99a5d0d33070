"""External superpixels: masks made by another program, or by a plug-in.

`--superpixels masks --masks DIR` reads one file per photograph; `--superpixels NAME` calls a plug-in
(`--plugin FILE`, or an entry point in the group `svp.superpixels`). Masks may overlap and leave gaps,
as SAM's do. What is stored beside them (area, box, centroid, order) is derived here; level is WHOLE
and scores are 1 where nothing else is given. Empty masks and copies are dropped, of more than
`max_superpixels` the largest stay, and an image without one gets the whole image, flagged.
"""

import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import plugins
from ..display import shorten, show
from ..errors import ConfigError, ImageError, PlanMismatchError
from ..fetch.sam_specs import USUAL_SAM
from ..masks import runs as rl
from ..records import WHOLE, Superpixels
from .candidates import distinct, full_image, largest, to_superpixels
from .slic import centroids

if TYPE_CHECKING:
    from ..sam import SamBackend

MAX_MASKS = 65_536  # masks of one photograph, before the cap
BAD = "bad-masks"

Masks = NDArray[Any] | Sequence[NDArray[Any]]


class SuperpixelMethod:
    """A way to cut photographs; subclass it, give it a `version`, and register it by a name.

    Made once per worker, without arguments; a photograph's masks must depend on its pixels alone,
    or two runs would make two caches under one name.
    """

    version: ClassVar[str] = ""

    def masks(self, image: NDArray[np.uint8]) -> Masks:
        """The masks of one (H,W,3) uint8 RGB photograph: bool (N,H,W) or N times (H,W), or a label
        map, integers (H,W), where 0 belongs to no superpixel.
        """
        raise NotImplementedError


METHODS: dict[str, type[SuperpixelMethod]] = {}
BUILT_IN = (*USUAL_SAM, "slic", "masks")


def superpixels(
    name: str, version: str = ""
) -> Callable[[Callable[[NDArray[np.uint8]], Masks]], Callable[[NDArray[np.uint8]], Masks]]:
    """Decorator that registers a function image -> masks (see `SuperpixelMethod.masks`) as `name`.

    Raises ConfigError for the name of a source of this package.
    """
    if not name or name in BUILT_IN:
        raise ConfigError(f"superpixels {show(name)}: the name is taken: choose another")

    def register(
        function: Callable[[NDArray[np.uint8]], Masks],
    ) -> Callable[[NDArray[np.uint8]], Masks]:
        METHODS[name] = _as_class(function, version)
        return function

    return register


def _as_class(found: object, version: str = "") -> Any:
    """A function as a class; a class, or what is neither, as it is."""
    if isinstance(found, type) or not callable(found):
        return found
    version = version or str(getattr(found, "version", ""))
    fields = {"masks": lambda self, image: found(image), "version": version, "code": found}
    return type(getattr(found, "__name__", "Function"), (SuperpixelMethod,), fields)


plugins.attach(plugins.SUPERPIXELS, METHODS, SuperpixelMethod, _as_class)


def find_method(name: str) -> type[SuperpixelMethod]:
    """The plug-in `name`. Raises ConfigError naming what there is, MissingError."""
    found: type[SuperpixelMethod] = plugins.lookup(plugins.SUPERPIXELS, name, BUILT_IN)
    return found


def method_version(kind: type[SuperpixelMethod]) -> str:
    """Identity of a plug-in in the recipe: its version and the digest of its file."""
    code: Any = getattr(kind, "code", kind)
    try:
        digest = hashlib.sha256(Path(inspect.getfile(code)).read_bytes()).hexdigest()[:16]
    except (OSError, TypeError):
        digest = "unknown"
    return f"{kind.version or '-'} {digest}"


class OwnSource:
    """Masks of a plug-in or of a folder, as a superpixel source.

    make  (image, its path in the data set) -> masks with what is given of them
    sam   gives the embeddings that are stored beside; None: there are none
    """

    def __init__(
        self,
        make: "Callable[[NDArray[np.uint8], str], Given]",
        limit: int,
        sam: "SamBackend | None" = None,
    ) -> None:
        self._make, self._limit, self._sam = make, limit, sam

    def generate_batch(
        self,
        images: Sequence[NDArray[np.uint8]],
        *,
        embeddings: bool = False,
        names: Sequence[str] = (),
    ) -> tuple[list[Superpixels], list[NDArray[np.float16]] | None]:
        """See `SuperpixelSource`; `names` are the photographs' paths in the data set."""
        from .point_grid import embedded

        if embeddings and self._sam is None:
            raise ConfigError("this source was built without SAM: it has no embeddings")
        names = names or [""] * len(images)
        found = [
            to_record(self._make(image, name), image.shape[0], image.shape[1], self._limit)
            for image, name in zip(images, names, strict=True)
        ]
        return found, embedded(self._sam, images) if embeddings and self._sam else None


@dataclass(frozen=True)
class Given:
    """Masks of one photograph, one after another, and what else is known of each (None: nothing)."""

    masks: Iterator[NDArray[np.bool_]]
    level: Sequence[int] | None = None
    iou: Sequence[float] | None = None
    stability: Sequence[float] | None = None


def from_method(kind: type[SuperpixelMethod], name: str) -> Callable[..., Given]:
    """Reader of `OwnSource` for a plug-in. Raises ImageError for an image on which it fails."""
    method = kind()

    def make(image: NDArray[np.uint8], path: str) -> Given:
        where = f"superpixels={name}: {path or 'image'}"
        try:
            # A copy: a plug-in may write into it, and the encoders read the photograph after it.
            return Given(each(method.masks(image.copy()), where))
        except (ImageError, MemoryError):
            raise
        except Exception as error:
            why = shorten(f"{type(error).__name__}: {error}", 200)
            raise ImageError(BAD, f"{where}: {why}") from error

    return make


def to_record(given: Given, height: int, width: int, limit: int) -> Superpixels:
    """The record that is stored. Raises ImageError("bad-masks") for masks of another size."""
    parts, index = [], []
    for number, mask in enumerate(given.masks):
        if mask.shape != (height, width):
            raise ImageError(
                BAD, f"mask {number}: {mask.shape[0]}x{mask.shape[1]} pixels, the photograph has "
                f"{height}x{width}"
            )  # fmt: skip
        if number >= MAX_MASKS:
            raise ImageError(BAD, f"more than {MAX_MASKS} masks")
        if mask.any():
            parts.append(rl.from_masks(mask[None]))
            index.append(number)
    runs = rl.concat(parts) if parts else rl.empty(height, width)
    counts = {"masks": len(index)}
    keep = np.array(distinct(rl.encode(runs)), np.int64)
    keep = keep[largest(rl.areas(rl.select(runs, keep)), limit)]
    counts["kept"] = len(keep)
    if not len(keep):
        whole = full_image(height, width)
        return to_superpixels(whole, rl.encode(whole.runs), counts, True)
    runs, chosen = rl.select(runs, keep), [index[i] for i in keep]

    def column(values: Sequence[float] | None, default: float, kind: type) -> NDArray[Any]:
        found = [default if values is None else values[i] for i in chosen]
        return np.array(found).astype(kind)

    return Superpixels(
        height=height,
        width=width,
        rles=rl.encode(runs),
        level=column(given.level, WHOLE, np.uint8),
        predicted_iou=column(given.iou, 1, np.float32),
        stability=column(given.stability, 1, np.float32),
        area=rl.areas(runs).astype(np.int32),
        box=rl.boxes(runs).astype(np.int32),
        point=centroids(runs).astype(np.float32),
        crop=np.tile(np.array([0, 0, width, height], np.int32), (len(keep), 1)),
        survivors=counts,
    )


def require_version(name: str, asked: str, found: str) -> None:
    """Refuse a plug-in or a folder of masks other than the recipe's. Raises PlanMismatchError."""
    if asked != found:
        raise PlanMismatchError(
            f"superpixels={name}: this cache is made with {show(asked, 80)}, here is "
            f"{show(found, 80)}: give the same one, or make another cache"
        )


def each(masks: Masks, where: str) -> Iterator[NDArray[np.bool_]]:
    """Masks one by one: a label map's by rising label, without 0."""
    if isinstance(masks, np.ndarray) and masks.ndim == 2 and masks.dtype.kind in "iu":
        labels = np.unique(masks)
        return (masks == label for label in labels[labels != 0])
    found = [np.asarray(mask) for mask in masks]
    for mask in found:
        if mask.ndim != 2 or mask.dtype.kind not in "biu":
            raise ImageError(BAD, f"{where}: a mask is {mask.dtype} {mask.shape}, want bool (H,W)")
    return (mask.astype(np.bool_) for mask in found)
