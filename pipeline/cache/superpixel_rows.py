"""Superpixels of an image, put together from its rows of the arrays of the layer."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from numpy.typing import NDArray

from ..display import counted
from ..errors import CacheError
from ..io.binary import empty
from ..records import Quarantined, Superpixels
from ..store import Place, open_store
from .layers import SUPERPIXELS
from .layout import shard_key
from .manifest import Manifest, read_manifest
from .plan import Plan, PlanImage
from .row_codec import superpixels_of, unpack_rles
from .shard_file import ShardFile

Array = NDArray[Any]
SMALL = ("level", "area", "iou", "stability", "box", "point", "crop")


def stored_superpixels(cache: Place, plan: Plan, shard: int) -> list[Superpixels | Quarantined]:
    """The superpixels of a committed shard, in order. Raises CacheError if it is damaged."""
    store, layer = open_store(cache), plan.layer(SUPERPIXELS)
    manifest = read_manifest(store, layer, shard)
    bad = {slot: (reason, detail) for slot, reason, detail in manifest.bad}
    files = {
        spec.name: ShardFile(store, shard_key(spec, shard), spec, layer.shard_size)
        for spec in layer.arrays
    }
    found: list[Superpixels | Quarantined] = []
    for slot, image in enumerate(layer.shard(shard)):
        if slot in bad:
            found.append(Quarantined(image.image_id, *bad[slot]))
            continue
        read = partial(_read_slot, files, slot)
        found.append(superpixels_of_slot(read, manifest, slot, image))
    return found


def _read_slot(files: Mapping[str, ShardFile], slot: int, name: str) -> Array:
    file = files[name]
    row = empty(file.spec.row, file.spec.numpy)
    file.read(slot, row, verify=True)
    return row


def superpixels_of_slot(
    read: Callable[[str], Array], manifest: Manifest, slot: int, image: PlanImage
) -> Superpixels:
    """Superpixels of a good image; `read` gives its row of an array of the layer."""
    n = manifest.k[slot]
    rles = unpack_rles(read("rle"))
    if len(rles) != n:
        raise CacheError(f"{len(rles)} RLEs, the manifest says {counted(n, 'superpixel')}")
    small = {name: read(name)[:n].copy() for name in SMALL}
    survivors = {step: left[slot] for step, left in manifest.survivors.items()}
    size = (image.height, image.width)
    return superpixels_of(rles, small, size, slot in manifest.fallback, survivors)
