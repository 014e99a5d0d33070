"""Image decoding: bounded, format by content, always (H,W,3) uint8 RGB, upright.

Only JPEG, PNG and WEBP are opened (Pillow's other decoders are attack surface), the size is taken
from the header and capped before a pixel is decoded, and every failure is an `ImageError` whose
`reason` is a code of the quarantine list (docs/data.md). Decisions:

| input               | result                                                                  |
|---------------------|-------------------------------------------------------------------------|
| wrong extension     | decoded by content; `mislabelled` lets `svp data check` report it       |
| grey, 1 bit         | the value in all three channels                                         |
| palette             | its colours                                                             |
| alpha               | dropped, stored colours kept (as cv2.imread and LISA's loader see them) |
| CMYK, YCCK JPEG     | Pillow's conversion, which undoes Adobe's inversion; no colour profile  |
| 16 bit, grey or RGB | the high byte: 65535 -> 255, an 8-bit value times 257 comes back exactly|
| EXIF orientation    | applied, unless the record has the size of the stored pixels and not of |
|                     | the upright ones: then its annotations refer to the stored pixels       |
| animated PNG, WEBP  | refused: an annotation cannot say which frame it means                  |
| several in a JPEG   | the first (MPO: telephones embed previews and depth maps)               |

What a photograph looks like thus follows from its bytes and the record's size alone: the same in
precompute, with `--live`, in pages and in `svp predict`, which has no annotations to ask.
"""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..display import show
from ..errors import DataError, ImageError
from ..masks.rle_codec import MAX_SIDE
from ..records import ImageRecord
from .photo_files import Photo, PhotoFile, SpecialFileError, photo_file
from .stored_photos import EndsEarlyError

MAX_PIXELS = 64_000_000
MAX_BYTES = 512 << 20

_MAGIC = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"RIFF": "WEBP"}
_SUFFIX = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}
IMAGE_SUFFIXES = frozenset(_SUFFIX)
_RGB_BY_PILLOW = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
# What Pillow's three decoders raise on bad bytes, found by fuzzing; others are bugs and propagate.
_ORIENTATION, _SHORT = 0x0112, 3  # EXIF: the tag and its type
_DECODER_ERRORS = (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError)


def read_record(root: Path, record: ImageRecord) -> NDArray[np.uint8]:
    """The record's pixels (H,W,3) uint8 RGB; every failure, the path's too, is an ImageError."""
    try:
        photo = photo_file(root, record.path, f"image {record.image_id}")
    except DataError as error:
        raise ImageError("unsafe-path", str(error)) from None
    return read_image(photo, record)


def read_image(path: Path | Photo, record: ImageRecord | None = None) -> NDArray[np.uint8]:
    """Pixels (H,W,3) uint8 RGB. ImageError with a code of docs/data.md.

    With a `record` of known size (height > 0) either the upright or the stored size must equal it,
    and says which of the two is returned; upright where both do, and without a record.
    """
    photo = _photo(path)
    with _opened(photo) as image:
        turn = _turn(_header(image), record, photo)
        pixels = to_rgb(image, photo)
    return np.ascontiguousarray(turned(pixels, turn))


@dataclass(frozen=True, slots=True)
class Header:
    """Content of an image header. `stored` is (height, width) before the EXIF `orientation`
    (1..8, 1: none) is applied; `deep` is whether its grey values have 16 bits.
    """

    stored: tuple[int, int]
    orientation: int = 1
    deep: bool = False

    @property
    def upright(self) -> tuple[int, int]:
        """(height, width) as viewers show it."""
        return self.stored[::-1] if self.orientation > 4 else self.stored


def image_header(path: Path | Photo) -> Header:
    """Size, orientation and depth, without decoding a pixel. ImageError as `read_image`."""
    with _opened(_photo(path)) as image:
        return _header(image)


def turned(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Stored pixels (H,W,...) as an EXIF orientation wants them shown; a view of them.

    >>> turned(np.array([[1, 2, 3]], np.uint8), 6).tolist()  # lying: a quarter turn clockwise
    [[1], [2], [3]]
    """
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    match orientation:
        case 2 | 6:
            return pixels[:, ::-1]
        case 3 | 7:
            return pixels[::-1, ::-1]
        case 4 | 8:
            return pixels[::-1]
    return pixels


def read_mask(path: Path) -> NDArray[np.bool_]:
    """(H,W) of a PNG mask: where its value is not zero; palette index, grey or any of RGB.

    Stored pixels: a mask has no orientation. ImageError as `read_image`, also for alpha channels,
    which do not say whether colour or transparency is the mask.
    """
    with _opened(PhotoFile(path)) as image:
        if image.format != "PNG":
            raise _error("not-an-image", path, f"a mask is a PNG, not {image.format}")
        if image.mode not in ("1", "L", "P", "I", "RGB") and not image.mode.startswith("I;16"):
            raise _error(
                "unsupported-mode", path, f"mode {image.mode}; save the mask as 8-bit grey"
            )
        pixels: NDArray[np.bool_] = np.asarray(image) != 0
    if pixels.ndim == 3:
        pixels = np.logical_or.reduce(pixels, axis=2)
    return pixels


def is_readable_kind(path: Path | Photo) -> bool:
    """Whether the content starts as JPEG, PNG or WEBP does; False for what is no regular file."""
    try:
        return _format(_examine(_photo(path))[0]) is not None
    except ImageError:
        return False


def mislabelled(path: Path | Photo) -> str | None:
    """The true format where the extension claims another, or None. Does not decode."""
    photo = _photo(path)
    claimed = _SUFFIX.get(photo.suffix)
    with photo.open() as file:
        actual = _format(file.read(16))
    return actual if actual and claimed and actual != claimed else None


def _photo(path: Path | Photo) -> Photo:
    return PhotoFile(path) if isinstance(path, Path) else path


@contextmanager
def _opened(path: Photo) -> Iterator[Image.Image]:
    """A Pillow image of checked format and header size; its decoding errors become ImageErrors."""
    head, size = _examine(path)
    try:
        formats = (_require_format(head, path),)
        with path.open() as file, Image.open(file, formats=formats) as image:
            _check_header(image, path)
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _error("too-large", path, str(error)) from None
    except UnidentifiedImageError:
        raise _broken(path, size, "the header cannot be read") from None
    except (*_DECODER_ERRORS, struct.error, zlib.error) as error:
        raise _broken(path, size, str(error)) from None


def _examine(path: Photo) -> tuple[bytes, int]:
    try:
        size = path.examine()
        if size > MAX_BYTES:
            raise _error("too-large", path, f"{size} bytes; at most {MAX_BYTES}")
        if isinstance(path, PhotoFile) and path.member and size < path.bytes:
            raise _error("truncated", path, "the archive ends before it")
        with path.open() as file:
            head = file.read(16)
    except SpecialFileError:
        raise _error("unsafe-path", path, "is not a regular file") from None
    except EndsEarlyError:
        whole = "archive" if path.member else "object"
        raise _error("truncated", path, f"the {whole} ends before it") from None
    except (FileNotFoundError, NotADirectoryError):
        raise _error("missing", path, "no such file") from None
    except OSError as error:
        raise _error("unreadable", path, error.strerror or "cannot be read") from None
    if not head:
        raise _error("empty", path, "the file has no bytes")
    return head, size


def _require_format(head: bytes, path: Photo) -> str:
    found = _format(head)
    if found is None:
        raise _error("not-an-image", path, "the content is not JPEG, PNG or WEBP")
    return found


def _format(head: bytes) -> str | None:
    for magic, name in _MAGIC.items():
        if head.startswith(magic) and (name != "WEBP" or head[8:12] == b"WEBP"):
            return name
    return None


def _check_header(image: Image.Image, path: Photo) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        detail = f"{height}x{width}; at most {MAX_PIXELS} pixels and {MAX_SIDE} a side"
        raise _error("too-large", path, detail)
    # A JPEG with a second picture inside is no animation: telephones embed previews and depth maps.
    if image.format in ("PNG", "WEBP") and getattr(image, "is_animated", False):
        raise _error("animated", path, "more than one frame; save the one that is annotated")


def _header(image: Image.Image) -> Header:
    exif = image.info.get("exif")
    orientation = _orientation(exif) if isinstance(exif, bytes) else 1
    return Header((image.height, image.width), orientation, image.mode.startswith("I;16"))


def _orientation(exif: bytes) -> int:
    """The orientation in the first directory of EXIF bytes; 1 where there is none.

    Pillow's own `getexif` decodes a PNG without EXIF to its end, and warns of damage on stderr.
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, start)
        for k in range(entries):
            tag, kind, count, value = struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * k)
            if (tag, kind, count) == (_ORIENTATION, _SHORT, 1):
                return value if 1 <= value <= 8 else 1
    except struct.error:  # cut off
        pass
    return 1


def _turn(header: Header, record: ImageRecord | None, path: Photo) -> int:
    """The orientation to apply, so that the picture has the record's size. ImageError: neither."""
    if record is None or record.height == 0:
        return header.orientation
    found, wanted = header.stored, (record.height, record.width)
    if wanted == header.upright:
        return header.orientation
    if wanted == found:
        return 1
    hint = "; rotated by 90 degrees it would match" if found == wanted[::-1] else ""
    detail = f"{found[0]}x{found[1]}, the annotations say {wanted[0]}x{wanted[1]}{hint}"
    raise _error("wrong-size", path, detail)


def to_rgb(image: Image.Image, path: Path | Photo) -> NDArray[np.uint8]:
    """(H,W,3) uint8 of a decoded picture. ImageError, naming `path`: no sound conversion."""
    if image.mode in _RGB_BY_PILLOW:
        return np.array(image.convert("RGB"), dtype=np.uint8)
    if image.mode.startswith("I;16"):  # Pillow itself takes the high byte of 16-bit RGB
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    raise _error("unsupported-mode", path, f"mode {image.mode}; save it as 8-bit RGB")


def _broken(path: Photo, size: int, detail: str) -> ImageError:
    try:
        cut = "truncat" in detail.lower() or _ends_early(path, size)
    except OSError as error:  # gone or replaced since its head was read
        return _error("unreadable", path, error.strerror or "cannot be read")
    return _error("truncated" if cut else "corrupt", path, detail)


def _ends_early(path: Photo, size: int) -> bool:
    """Whether the container says it is longer than the file (PNG end chunk, RIFF length)."""
    with path.open() as file:
        head = file.read(12)
        file.seek(max(0, size - 64))
        tail = file.read()
    match _format(head + b"\0" * 4):
        case "PNG":
            return b"IEND" not in tail
        case "WEBP":
            return int.from_bytes(head[4:8], "little") + 8 > size
    return b"\xff\xd9" not in tail


def _error(reason: str, path: Path | Photo, detail: str) -> ImageError:
    return ImageError(reason, f"image {show(str(path), 160)}: {reason}: {show(detail, 160)}")
