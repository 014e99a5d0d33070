"""Look up the cached features of a source's images: cache, row and identity check.

Training and evaluation ask the same `Finder`, so they agree about what belongs together. An image
is found by its id, if the photograph is the one that was cached (see `photo_identity`), else by the content
of its file under whatever id. Several caches may hold one id: the one with this photograph counts.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ...pipeline.cache.places import limit_of, rehearsed
from ...pipeline.cache.plan import PlanImage
from ...pipeline.cache.row_reader import RowReader
from ...pipeline.datasets.expressions import expression_problem
from ...pipeline.datasets.problems import Problems
from ...pipeline.datasets.stored_photos import root_name
from ...pipeline.datasets.tables import Sentence, Source
from ...pipeline.display import counted, quote, show
from ...pipeline.errors import DataError
from ...pipeline.precompute.source_images import photo_size
from ...pipeline.records import ImageRecord, Rle
from ...pipeline.store import is_url
from .photo_identity import Photos

BEYOND = "images beyond the --limit of the cache"  # among what is left out


_NOT_LOOKED_AT, _FOUND, _ABSENT = range(3)


class Place(NamedTuple):
    """Cache number, row in it, and the height and width of the image."""

    cache: int
    row: int
    height: int
    width: int


class Finder:
    """Finds images of a source in caches; what cannot be used is kept by reason.

    absent       image ids that no cache holds; `pending` those of them whose row will come
    beyond       image ids that no cache holds because one was limited to the images before them
    quarantined  image id -> why its cache could not compute it
    other        lines about images that are other photographs than the cache's
    unseen       number of images whose file is not on this machine: taken by name and size

    What is found is kept in columns, 33 bytes of each image of the source.
    """

    def __init__(self, caches: Sequence[RowReader], source: Source) -> None:
        self.caches, self.root = caches, source.image_root
        self.absent: set[int] = set()
        self.beyond: set[int] = set()
        self.pending: dict[int, tuple[RowReader, int]] = {}
        self.quarantined: dict[int, str] = {}
        self.other: list[str] = []
        self.unseen = 0
        self.looked = 0
        self._photos = Photos(self.root, caches[0].path)
        self._index = [cache.index_of for cache in caches]
        # Readers sort images by id, plug-ins may not.
        count, self._images = len(source.images), source.images
        self._ids = np.fromiter((image.image_id for image in self._images), np.int64, count)
        if np.any(self._ids[1:] < self._ids[:-1]):
            self._images = tuple(sorted(self._images, key=lambda image: image.image_id))
            self._ids.sort()
        self._state = np.zeros(count, np.int8)
        self._rows = np.zeros((count, 2), np.int64)  # cache and row
        self._sizes_found = np.zeros((count, 2), np.int32)  # height and width

    def record(self, image_id: int) -> ImageRecord:
        """The source's record of an image. Raises KeyError if it has none."""
        return self._images[self._at(image_id)]

    def find(self, image_id: int) -> Place | None:
        """Location of an image's features, or None after noting the cause.

        Raises DataError if the data says another size than the cache about one photograph.
        """
        at = self._at(image_id)
        if self._state[at] == _NOT_LOOKED_AT:
            self.looked += 1
            place = self._find(self._images[at])
            self._state[at] = _ABSENT if place is None else _FOUND
            if place is not None:
                self._rows[at], self._sizes_found[at] = place[:2], place[2:]
        if self._state[at] == _ABSENT:
            return None
        return Place(*self._rows[at].tolist(), *self._sizes_found[at].tolist())

    def _at(self, image_id: int) -> int:
        at = int(np.searchsorted(self._ids, image_id))
        if at == len(self._ids) or self._ids[at] != image_id:
            raise KeyError(image_id)
        return at

    def check(self) -> None:
        """Remember what was compared. Raises DataError if an image is another photograph."""
        self._photos.save()
        if self.other:
            raise DataError(
                f"{len(self.other):,} of {counted(self.looked, 'photograph', 'are')} not those of "
                "the cache: "
                f"{self.other[0]}: give the data that the cache was made from, or cache these "
                "photographs with `svp precompute --dataset ... --store-sam-embeddings --out "
                "NEWCACHE`"
            )

    def set_limited_aside(self, images: Sequence[ImageRecord]) -> None:
        """Move the absent images that `svp precompute --limit` left out on purpose to `beyond`.

        images  of the source, in its order: a limited cache holds the first ones, so only what
                comes after the last image it plans is beyond its limit
        """
        for cache, index in zip(self.caches, self._index, strict=True):
            if cache.complete and limit_of(cache.path) == len(cache):
                planned = [at for at, image in enumerate(images) if image.image_id in index]
                rest = images[planned[-1] + 1 :] if planned else ()
                self.beyond |= self.absent & {image.image_id for image in rest}
        self.absent -= self.beyond

    def limit_notes(self) -> list[str]:
        """Notices about images beyond the limit of a cache."""
        if not self.beyond:
            return []
        used, known = self.looked - len(self.beyond), show(str(self.caches[0].path), 200)
        line = (
            f"{used:,} of {counted(self.looked, 'image')} with expressions used: {known} was made "
            f"with --limit, and {counted(len(self.beyond), 'other', 'are')} beyond it"
        )
        return [line]

    def rehearsal_notes(self) -> list[str]:
        """Notices about caches made with stand-ins for the weights."""
        return [
            f"{show(str(cache.path), 200)} was made in a rehearsal, with stand-ins for the weights: "
            "no result from it is real"
            for cache in self.caches
            if rehearsed(cache.path)
        ]

    def unseen_notes(self) -> list[str]:
        """Notices about images whose content was not compared."""
        if not self.unseen:
            return []
        place = "in object storage," if is_url(self.root) else "not in"
        line = (
            f"{self.unseen:,} of {counted(self.looked, 'photograph', 'are')} {place} "
            f"{show(root_name(self.root), 200)}: taken by name and size, their content was not compared "
            "with the cache's"
        )
        return [line]

    def _find(self, record: ImageRecord) -> Place | None:
        other = why = ""
        for number, cache in enumerate(self.caches):
            row = self._index[number].get(record.image_id)
            if row is None:
                continue
            image = cache.plan.images[row]
            verdict = self._photos.compare(record, image)
            if verdict == "other":
                other = other or self._differ(record, image, cache)
                continue
            match cache.status(row):
                case "ok":
                    return self._place(record, number, row, unseen=verdict == "unseen")
                case "quarantined":
                    wanted = cache.plan.images[row].image_id
                    told = (bad.reason for bad in cache.quarantined if bad.image_id == wanted)
                    why = why or next(told, "")
                case "missing":
                    self.pending.setdefault(record.image_id, (cache, row))
        if (place := self._by_content(record)) is not None:
            return place
        if other:
            self.other.append(other)
        elif why:
            self.quarantined[record.image_id] = why
        else:
            self.absent.add(record.image_id)
        return None

    def _by_content(self, record: ImageRecord) -> Place | None:
        key = self._photos.key(record, self._sizes)
        found = self._content.get(key) if key is not None else None
        return self._place(record, *found, unseen=False) if found else None

    @cached_property
    def _sizes(self) -> frozenset[int]:
        return frozenset(size for size, _ in self._content)

    @cached_property
    def _content(self) -> dict[tuple[int, str], tuple[int, int]]:
        """(bytes, xxh3) of every usable image -> (cache, row), the first of equal ones."""
        found: dict[tuple[int, str], tuple[int, int]] = {}
        for number, cache in enumerate(self.caches):
            for row, image in enumerate(cache.plan.images):
                if image.xxh3 and cache.status(row) == "ok":
                    found.setdefault((image.bytes, image.xxh3), (number, row))
        return found

    def _place(self, record: ImageRecord, number: int, row: int, *, unseen: bool) -> Place:
        cache = self.caches[number]
        image = cache.plan.images[row]
        height, width = image.height, image.width
        if not height:  # the planner could not read it, yet its row is there: sizes of the row
            height, width = record.height, record.width
        if record.height and (record.height, record.width) != (height, width):
            raise DataError(
                f"image {record.image_id} is {record.height}x{record.width} in the data and "
                f"{height}x{width} ({quote(image.path)}) in the cache "
                f"{show(str(cache.path), 200)}: they do not belong together"
            )
        if unseen:
            self.unseen += 1
        return Place(number, row, height, width)

    def _differ(self, record: ImageRecord, image: PlanImage, cache: RowReader) -> str:
        where = show(str(cache.path), 200)
        if is_url(self.root) or not photo_size(self.root, record):
            return (
                f"image {record.image_id} is {quote(record.path)} in the data and "
                f"{quote(image.path)} in {where}"
            )
        what = f"is not {quote(image.path)}, which was cached under this id"
        if record.path == image.path:
            what = "was edited after it was cached, or is another picture of that name"
        return (
            f"image {record.image_id}, {quote(record.path)} in {show(str(self.root), 200)}, {what} "
            f"({where})"
        )


class Masks:
    """Target masks of a source's sentences, each looked at only if its sentence is used.

    An expression that would break a prompt goes to `problems`: the sentence is left out, named and
    counted.
    """

    def __init__(self, source: Source, problems: Problems) -> None:
        self.source, self.problems = source, problems

    def speakable(self, row: Sentence) -> bool:
        """Whether the expression can be used in a prompt."""
        if problem := expression_problem(row.sent):
            self.problems.add(_named(row, f"{quote(row.sent)} {problem}"))
        return not problem

    def of(self, row: Sentence, place: Place, problems: Problems) -> Rle | None:
        """The mask of a sentence's object; None if it is bad, which goes to `problems`."""
        key, size = (row.dataset, row.ann_id), (place.height, place.width)
        if (mask := self.source.good_masks.get(key)) is not None:
            if (mask.height, mask.width) == size:
                return mask
            problems.add(_named(row, f"{mask.height}x{mask.width} in the data set, {size[0]}x{size[1]} "
                                "in the cache: not the same image"))  # fmt: skip
            return None
        if (bad := self.source.bad_masks.get(key)) is not None:
            problems.add(_named(row, bad))
            return None
        # The photograph cannot be examined here, but the cache knows its size.
        sized = replace(self.source.annotations[key], height=size[0], width=size[1])
        try:
            return sized.mask()
        except DataError as error:
            problems.add(_named(row, str(error)))
            return None

    def ignored(self, row: Sentence, place: Place) -> Rle | None:
        """The region that counts neither for nor against a prediction; call it after `of`."""
        item = self.source.annotations[row.dataset, row.ann_id]
        return replace(item, height=place.height, width=place.width).ignored()


def _named(row: Sentence, what: str) -> str:
    return f"{row.dataset} sentence {row.sent_id}: {what} (image {row.image_id})"
