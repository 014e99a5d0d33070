"""A cache as a map-style `torch.utils.data.Dataset`, for training code that is not svp's own."""

import logging
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from ...pipeline.cache.index import GOOD
from ...pipeline.cache.plan import Plan, chosen_view
from ...pipeline.cache.reader import CacheReader, Verify
from ...pipeline.cache.row_tier import RowTier
from ...pipeline.cache.schema import spec_of
from ...pipeline.cache.superpixel_rows import SMALL
from ...pipeline.display import counted, show
from ...pipeline.errors import CacheError, ConfigError
from ...pipeline.masks import rle
from ...pipeline.records import Superpixels
from ...pipeline.store import Place, as_place

log = logging.getLogger(__name__)

Sample = dict[str, Any]

# Field -> the array of the cache that it is read from.
PER_IMAGE = {"features": "dino", "layers": "layers", "cls": "cls", "sam": "sam"}
PER_SUPERPIXEL = {
    "cover": "cover", "pooled": "pooled", "sspe_masks": "sspe_masks", "masks": "rle", "level": "level", "area": "area",
    "iou": "iou", "stability": "stability", "box": "box", "point": "point",
}  # fmt: skip
LISTED = {"rles": "rle"}  # no tensors: lists in a batch
FIELDS = {**PER_IMAGE, **PER_SUPERPIXEL, **LISTED}
DEFAULT = ("features", "cover", "sspe_masks")
GATHERED = ("features", "pooled", "cls", "sam")  # read by `CacheReader.gather`, many rows at once


class CacheDataset(Dataset[Sample]):
    """The usable images of a cache, in the cache's order; a sample is a dict.

    Always in a sample: `image_id` (int), `path` (str, below the image folder), `size` ((2,) int64,
    H and W of the upright image). The rest are the `fields`, for an image of n superpixels:

    features    (P,C) float16 patch features, raster order; what is stored in fewer bits is decoded
    layers      (L,P,C) float16 extra encoder layers
    cls         (C,) float16 CLS token
    sam         (c,h,w) float16 SAM image embedding
    cover       (n,P) float16 share of each patch that each superpixel covers
    pooled      (n,C) float16 mean of the features under each superpixel
    sspe_masks  (n,h,w) uint8 in {0,1}, superpixels on the SSPE grid
    masks       (n,H,W) uint8 in {0,1}, superpixels at image size; decoded at every read
    rles        list of n COCO RLEs as pycocotools takes them: {"size": [H, W], "counts": bytes}
    level       (n,) uint8: 0 sub-part, 1 part, 2 whole
    area        (n,) int32 pixels
    iou, stability  (n,) float32, SAM's own scores
    box         (n,4) int32 x1 y1 x2 y2, inclusive maxima
    point       (n,2) float32, the prompt in image pixels, x y

    Images that are quarantined or not computed yet are left out: `left_out` counts them by reason,
    and a line of the log says so; `partial=False` refuses such a cache instead.

    `__getitems__` reads a batch in the order of the files, whatever the order asked for; of a cache
    on an object store with its requests in flight together. The data set can be pickled, so worker
    processes may be forked or spawned; each opens the cache for itself. Pass
    `collate_fn=CacheDataset.collate` to DataLoader.

    images  only these image ids, in this order
    verify  when a checksum of features is checked, as in `CacheReader`
    view    a plan of the cache; None: the oldest one that stores the fields
    tier    keeps what is read of an object store on a local disk

    Raises MissingError if there is no cache, ConfigError for an unknown field, CacheError if the
    cache is damaged, does not store a field or cannot give an image that was asked for.
    """

    def __init__(
        self,
        cache: Place | str,
        fields: Iterable[str] = DEFAULT,
        *,
        images: Iterable[int] | None = None,
        partial: bool = True,
        verify: Verify = "first",
        view: str | None = None,
        tier: RowTier | None = None,
    ) -> None:
        self.fields = _known(fields)
        view = view or chosen_view(as_place(cache), self._require)
        self.reader = CacheReader(cache, verify, view, tier)
        self._require(self.reader.plan)
        usable = self.reader.rows.status == GOOD
        self.left_out: dict[str, int] = {}
        if images is not None:
            self.rows = self._rows_of([*images])
            return
        self.rows = np.flatnonzero(usable)
        if len(self.rows) < len(usable):
            self._leave_out(np.flatnonzero(~usable).tolist(), refuse=not partial)

    @property
    def ids(self) -> NDArray[np.int64]:
        """(N,) image id of each sample."""
        ids: NDArray[np.int64] = self.reader.ids[self.rows]
        return ids

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        (sample,) = self.__getitems__([index])
        return sample

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Samples in the order of `indices`. Raises CacheError naming image and file."""
        n = len(self)
        if wrong := [i for i in indices if not -n <= i < n]:
            raise IndexError(f"sample {wrong[0]}: the data set has {counted(n, 'sample')}")
        rows = self.rows[np.asarray(indices, np.int64)]
        order = np.argsort(rows, kind="stable")
        rows = rows[order].tolist()
        # An array for each sample: a view of one for all would keep, and pickle, the whole batch.
        into = {
            name: [np.empty(shape, np.float16) for _ in rows]
            for name, shape in self._shapes().items()
        }
        self.reader.gather(rows, into, self._beside())
        samples: list[Sample] = [{}] * len(rows)
        for k, at in enumerate(order.tolist()):
            samples[at] = self._sample(rows[k], {name: values[k] for name, values in into.items()})
        return samples

    @staticmethod
    def collate(samples: Sequence[Sample]) -> Sample:
        """A batch of B samples: tensors stacked, fields of superpixels padded with zeros.

        Their first axis n becomes the largest of the batch, K, and `valid` (B,K) bool says which
        are superpixels. `masks` are padded to the largest H and W as well, below and to the right.
        `path` and `rles` are lists; `image_id` is (B,) int64.
        """
        batch: Sample = {}
        for name in samples[0]:
            values = [sample[name] for sample in samples]
            if name in LISTED or name == "path":
                batch[name] = values
            elif name in PER_SUPERPIXEL:
                batch[name] = _padded(values)
                counts = torch.tensor([len(value) for value in values])
                batch["valid"] = torch.arange(batch[name].shape[1]) < counts[:, None]
            else:
                batch[name] = default_collate(values)
        return batch

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the fields that are read many rows at once."""
        plan = self.reader.plan
        shapes = {
            "features": (plan.patches, plan.channels), "cls": (plan.channels,), "sam": plan.sam or (),
            "pooled": (plan.k, plan.channels + (plan.multi_channels if plan.thin else 0)),
        }  # fmt: skip
        return {name: shapes[name] for name in self.fields if name in GATHERED}

    def _beside(self) -> list[str]:
        """Arrays of superpixels that the fields need."""
        scores = ["rle", *SMALL] if _STORED_WITH_SCORES & set(self.fields) else []
        names = [PER_SUPERPIXEL[name] for name in self.fields if name in PER_SUPERPIXEL]
        return [*dict.fromkeys([*names, *scores])]

    def _sample(self, row: int, read: Mapping[str, NDArray[np.float16]]) -> Sample:
        """The sample of a row of which the fields `read` are there."""
        reader, image = self.reader, self.reader.plan.images[row]
        size = (image.height, image.width)
        sample: Sample = {
            "image_id": image.image_id, "path": image.path, "size": torch.tensor(size)
        }  # fmt: skip
        found = reader.superpixels(row) if _STORED_WITH_SCORES & set(self.fields) else None
        for name in self.fields:
            if name not in read:
                sample[name] = self._field(name, row, found)
                continue
            value = read[name]
            if name == "pooled":  # less its padding
                value = value[: reader.count(row)].copy()
            sample[name] = torch.from_numpy(value)
        return sample

    def _field(self, name: str, row: int, found: Superpixels | None) -> Tensor | list[Any]:
        reader = self.reader
        if name in ("layers", "cover"):
            read: Callable[[int], NDArray[np.float16]] = getattr(reader, name)
            return torch.from_numpy(read(row))
        if name == "sspe_masks":
            height, width = reader.plan.sspe
            bits = reader.sspe_masks(row)
            cells = np.unpackbits(bits, axis=1, count=height * width)
            return torch.from_numpy(cells.reshape(-1, height, width))
        if name == "area":
            return torch.from_numpy(reader.areas(row))
        assert found is not None
        if name == "rles":
            return [{"size": [found.height, found.width], "counts": one} for one in found.rles]
        if name == "masks":
            masks = [np.ascontiguousarray(rle.decode(one)) for one in found.masks()]
            return torch.from_numpy(np.stack(masks))
        return torch.from_numpy(getattr(found, "predicted_iou" if name == "iou" else name))

    def _require(self, plan: Plan) -> None:
        for name in self.fields:
            # Values of a layer may be stored in other arrays, with scales.
            if not any(layer.kind == name for layer in plan.layers):
                spec_of(plan.arrays, FIELDS[name])

    def _rows_of(self, images: list[int]) -> NDArray[np.int64]:
        where = show(str(self.reader.path), 300)
        rows = []
        for image_id in images:
            row = self.reader.index_of.get(operator.index(image_id))
            if row is None:
                raise CacheError(
                    f"{where}: no image {image_id}: `svp.CacheReader(...).ids` has all"
                )
            if self.reader.status(row) != "ok":
                why = self.reader.rows.bad.get(row, (_NOT_YET, "run the same `svp precompute`"))
                raise CacheError(f"{where}: image {image_id}: {show(': '.join(why), 500)}")
            rows.append(row)
        return np.array(rows, np.int64)

    def _leave_out(self, rows: list[int], *, refuse: bool) -> None:
        bad = self.reader.rows.bad
        self.left_out = dict(Counter(bad[i][0] if i in bad else _NOT_YET for i in rows))
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.left_out.items())
        what = (
            f"{show(str(self.reader.path), 300)}: {len(rows):,} of "
            f"{counted(len(self.reader), 'image')} left out ({show(reasons, 300)})"
        )
        if refuse:
            raise CacheError(
                f"{what}: finish the cache with the same `svp precompute` (quarantined images: "
                "--retry-quarantined), or use partial=True"
            )
        log.warning(what)


_NOT_YET = "not computed yet"
_STORED_WITH_SCORES = {*PER_SUPERPIXEL, *LISTED} - {"cover", "pooled", "sspe_masks", "area"}


def _known(fields: Iterable[str]) -> tuple[str, ...]:
    if isinstance(fields, str):
        raise ConfigError(f"fields={show(fields)}: give a list of names, such as [{show(fields)}]")
    names = tuple(dict.fromkeys(fields))
    if unknown := [name for name in names if name not in FIELDS]:
        raise ConfigError(f"fields={show(unknown[0])}: use any of {', '.join(FIELDS)}")
    return names


def _padded(values: Sequence[Tensor]) -> Tensor:
    """(B, ...) of tensors of equal rank, each axis as long as the longest of the batch."""
    shape = [max(sizes) for sizes in zip(*(value.shape for value in values), strict=True)]
    batch = torch.zeros((len(values), *shape), dtype=values[0].dtype)
    for into, value in zip(batch, values, strict=True):
        into[tuple(slice(size) for size in value.shape)] = value
    return batch
