"""Image list of a cache, as columns.

The columns are files of their own, mapped into memory: 11 million images open without a Python
object each, and the processes of a machine share their pages. They lie in a folder named by their
content, so a plan names exactly one list and a changed list never overwrites another.
"""

import hashlib
import mmap
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, overload

import numpy as np
import xxhash
from numpy.typing import NDArray

from ..display import counted, show
from ..errors import CacheError, ConfigError, MissingError
from ..io.binary import crc32c
from ..io.json_files import canonical
from ..store import FolderStore, Place, Store, open_store, pieces
from .image_checks import MAX_SIDE, check_columns, release

IMAGES = "images"
BLOCK = 4096  # images made into objects at a time
HASHED = 1 << 22  # bytes hashed at a time
CRC_BYTES = 4

# Column -> dtype. `paths` holds every path in UTF-8 with a NUL after it, `ends` where each ends.
COLUMNS = {
    "id": "<i8",
    "hw": "<u4",
    "bytes": "<i8",
    "xxh3": "<u8",
    "ends": "<u8",
    "paths": "|u1",
}


class PlanImage(NamedTuple):
    """One image of a plan. `path` is relative to the image root; `xxh3` is the file's xxh3_64, hex.

    `height` and `width` are 0, `bytes` 0 and `xxh3` empty when the planner could not read the file:
    the image stays in the plan and will be quarantined with its reason.
    """

    image_id: int
    path: str
    height: int
    width: int
    bytes: int
    xxh3: str


class Images(Sequence[PlanImage]):
    """N images as columns; a `PlanImage` is made when one is asked for.

    id     (N,) int64
    hw     (N,2) uint32, pixels
    bytes  (N,) int64, of the files
    xxh3   (N,) uint64 of the files; 0: the planner could not read it
    """

    def __init__(self, columns: Mapping[str, NDArray[Any]]) -> None:
        self.columns = dict(columns)
        self.id, self.hw = self.columns["id"], self.columns["hw"]
        self.bytes, self.xxh3 = self.columns["bytes"], self.columns["xxh3"]
        self._ends, self._paths = self.columns["ends"], self.columns["paths"]
        check_columns(self.columns)

    @classmethod
    def of(cls, images: Iterable[PlanImage]) -> "Images":
        """The list of `images`. Raises ConfigError for a path or a value that cannot be planned."""
        listed = [*images]
        paths = [image.path.encode("utf-8", "surrogatepass") + b"\0" for image in listed]
        try:
            columns = {
                "id": np.array([image.image_id for image in listed], "<i8"),
                "hw": np.array([image[2:4] for image in listed], "<i8").reshape(-1, 2),
                "bytes": np.array([image.bytes for image in listed], "<i8"),
                "xxh3": np.array([int(image.xxh3 or "0", 16) for image in listed], "<u8"),
                "ends": np.cumsum([*map(len, paths)], dtype="<u8"),
                "paths": np.frombuffer(b"".join(paths), np.uint8),
            }
        except (OverflowError, ValueError) as error:
            raise ConfigError(f"plan images: {error}") from None
        if columns["hw"].size and not 0 <= columns["hw"].min() <= columns["hw"].max() <= MAX_SIDE:
            raise ConfigError(f"plan images: sides must be 0 to {MAX_SIDE} pixels")
        return cls({name: columns[name].astype(dtype) for name, dtype in COLUMNS.items()})

    def __len__(self) -> int:
        return len(self.id)

    @overload
    def __getitem__(self, at: int) -> PlanImage: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[PlanImage, ...]: ...
    def __getitem__(self, at: int | slice) -> PlanImage | tuple[PlanImage, ...]:
        if isinstance(at, slice):
            first, last, step = at.indices(len(self))
            found = tuple(self._made(first, last)) if step > 0 else ()
            return (
                found[::step] if step > 0 else tuple(self[i] for i in range(*at.indices(len(self))))
            )
        row = range(len(self))[at]
        return next(self._made(row, row + 1))

    def __iter__(self) -> Iterator[PlanImage]:
        for first in range(0, len(self), BLOCK):
            yield from self._made(first, min(first + BLOCK, len(self)))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Images):
            return self.digest == other.digest
        if isinstance(other, Sequence):
            return len(self) == len(other) and [*self] == [*other]
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)

    def __reduce__(self) -> tuple[type["Images"], tuple[dict[str, NDArray[Any]]]]:
        return type(self), ({name: np.asarray(column) for name, column in self.columns.items()},)

    @cached_property
    def header(self) -> dict[str, Any]:
        """Number of images; bytes and xxh3_128 of every column."""
        columns = {
            name: {"bytes": column.nbytes, "xxh3_128": xxhash.xxh3_128_hexdigest(_view(column))}
            for name, column in self.columns.items()
        }
        return {"count": len(self), "columns": columns}

    @cached_property
    def digest(self) -> str:
        """sha256 of the list, hex: of its canonical header."""
        return hashlib.sha256(canonical(self.header)).hexdigest()

    @property
    def folder(self) -> str:
        """Its folder in a cache."""
        return f"{IMAGES}/{self.digest[:16]}"

    @cached_property
    def row_of(self) -> "IdIndex":
        """Image id -> row."""
        return IdIndex(self.id)

    def select(self, rows: Sequence[int] | slice) -> "Images":
        """The images of `rows`."""
        return Images.of(self[rows] if isinstance(rows, slice) else [self[row] for row in rows])

    def save(self, cache: Place) -> None:
        """Write the columns: atomic and durable; what is there already stays."""
        store = open_store(cache)
        keys = {name: column_key(self.folder, name) for name in self.columns}
        sizes = store.sizes_of([*keys.values()])
        for name, column in self.columns.items():
            data, found = _view(column), sizes.get(keys[name])
            if found == len(data) + CRC_BYTES:
                continue
            if found is not None:  # damaged, as its size says
                store.delete(keys[name])
            tail = crc32c(data).to_bytes(CRC_BYTES, "little")
            store.create(keys[name], [data, tail], label="images")

    @classmethod
    def load(cls, cache: Place, header: Mapping[str, Any]) -> "Images":
        """The list with this header, mapped. Raises CacheError if a column is not what it says."""
        digest = hashlib.sha256(canonical(header)).hexdigest()
        count, columns, store = header["count"], {}, open_store(cache)
        for name, dtype in COLUMNS.items():
            key = column_key(f"{IMAGES}/{digest[:16]}", name)
            path = store.where(key)
            wanted = header["columns"][name]
            row = np.dtype(dtype).itemsize * (2 if name == "hw" else 1)
            if name != "paths" and wanted["bytes"] != count * row:
                raise damaged(
                    path, f"{wanted['bytes']} bytes, not {counted(count, 'row')} of {row}"
                )
            data, tail = _mapped(store, key, wanted["bytes"])
            if _digests(data) != (wanted["xxh3_128"], tail):
                raise damaged(path, "fails its checksum")
            columns[name] = data.view(dtype).reshape((-1, 2) if name == "hw" else -1)
        try:
            found = cls(columns)
        except ConfigError as error:
            raise CacheError(f"{show(store.where(), 300)}: damaged: {error}") from None
        found.__dict__["header"], found.__dict__["digest"] = dict(header), digest
        for column in columns.values():
            release(column)
        return found

    def _made(self, first: int, last: int) -> Iterator[PlanImage]:
        if first >= last:
            return iter(())
        start = int(self._ends[first - 1]) if first else 0
        block = self._paths[start : int(self._ends[last - 1])].tobytes()
        paths = block.decode("utf-8", "surrogatepass").split("\0")[:-1]
        span = slice(first, last)
        hashes = [f"{value:016x}" if value else "" for value in self.xxh3[span].tolist()]
        heights, widths = self.hw[span].T.tolist()
        columns = (
            self.id[span].tolist(),
            paths,
            heights,
            widths,
            self.bytes[span].tolist(),
            hashes,
        )
        return map(PlanImage._make, zip(*columns, strict=True))


class IdIndex(Mapping[int, int]):
    """Image id -> row, by bisection: no object per image."""

    def __init__(self, ids: NDArray[np.int64]) -> None:
        self._ids = ids
        sorted_ids = bool(len(ids) < 2 or (ids[1:] > ids[:-1]).all())
        self._order = None if sorted_ids else np.argsort(ids, kind="stable")
        self._sorted = ids if self._order is None else ids[self._order]

    def __getitem__(self, image_id: int) -> int:
        at = int(np.searchsorted(self._sorted, image_id))
        if at == len(self._sorted) or self._sorted[at] != image_id:
            raise KeyError(image_id)
        return at if self._order is None else int(self._order[at])

    def __iter__(self) -> Iterator[int]:
        return iter(self._ids.tolist())

    def __len__(self) -> int:
        return len(self._ids)


def column_key(folder: str, name: str) -> str:
    """File of a column: the one chunk of a Zarr array."""
    return "/".join([folder, name, "c", *["0"] * (2 if name == "hw" else 1)])


def damaged(path: str, what: str) -> CacheError:
    """The error for a column that is not what the plan says."""
    return CacheError(
        f"{show(path, 300)}: {what}: the image list is damaged: get it again from where the "
        "cache came, or make the cache again"
    )


def _view(column: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(column).data.cast("B") if column.size else memoryview(b"")


def _mapped(cache: Store, key: str, size: int) -> tuple[NDArray[np.uint8], int]:
    """The first `size` bytes of a column file and the crc32c of them that follows."""
    path = cache.where(key)
    if not isinstance(cache, FolderStore):
        return _fetched(cache, key, size)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise damaged(path, f"cannot be read: {error.strerror}") from None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size != size + CRC_BYTES:
            raise damaged(path, f"{found.st_size} bytes, expected {size + CRC_BYTES}")
        mapped = mmap.mmap(fd, found.st_size, access=mmap.ACCESS_READ)
    finally:
        os.close(fd)
    return np.frombuffer(mapped, np.uint8, size), int.from_bytes(mapped[size:], "little")


def _fetched(cache: Store, key: str, size: int) -> tuple[NDArray[np.uint8], int]:
    """`_mapped` of a store that is no folder: a temporary file, which ends with the process."""
    with tempfile.TemporaryFile() as file:
        try:
            for piece in pieces(cache, key, size + CRC_BYTES):
                file.write(piece)
        except (CacheError, MissingError) as error:
            raise damaged(cache.where(key), f"cannot be read: {error}") from None
        file.flush()
        mapped = mmap.mmap(file.fileno(), size + CRC_BYTES, access=mmap.ACCESS_READ)
    return np.frombuffer(mapped, np.uint8, size), int.from_bytes(mapped[size:], "little")


def _digests(data: NDArray[np.uint8]) -> tuple[str, int]:
    """xxh3_128, hex, and crc32c of a mapped column, of which little is in memory at a time."""
    digest, crc = xxhash.xxh3_128(), 0
    for start in range(0, len(data), HASHED):
        block = data[start : start + HASHED]
        digest.update(block.data)
        crc = crc32c(block, crc)
        release(data)
    return digest.hexdigest(), crc
