"""Masks as image files: `"mask": "masks/1.png"`, foreground where a pixel is not zero."""

import hashlib
from pathlib import Path

from ..display import quote, show
from ..errors import DataError, ImageError
from ..io.json_files import Fingerprint
from ..io.paths import safe_join
from ..masks.rle import encode
from ..records import Rle
from ..store import is_url
from .coco import MAX_IMAGE_SIDE
from .images import image_header, read_mask


class MaskFiles:
    """The mask files of one JSONL data set, beside the file or below the image folder.

    Each is read once; `files` is what they were, so that a changed mask is another source.
    """

    def __init__(self, folder: Path, images: Path | None) -> None:
        # Masks are annotations: they lie beside the file where the photographs are in a bucket.
        local = images is not None and not is_url(images)
        self._roots = [folder, *([images] if images is not None and local else [])]
        self._read: dict[str, Rle] = {}

    def stated_size(self, mask: object) -> tuple[int, int]:
        """(height, width) an RLE or a mask file states; (0, 0) for polygons and bad values."""
        match mask:
            case {"size": [int(height), int(width)]}:
                sound = 0 < min(height, width) <= max(height, width) <= MAX_IMAGE_SIDE
                return (height, width) if sound else (0, 0)
            case [dict(first), *_]:
                return self.stated_size(first)
            case str(name):
                try:
                    return image_header(self._find(name, "mask")).stored
                except DataError:
                    return 0, 0
        return 0, 0

    def read(self, name: str, height: int, width: int, where: str) -> Rle:
        """The mask in file `name`, which must be (height, width). DataError naming `where`."""
        mask = self._read.get(name)
        if mask is None:
            try:
                mask = encode(read_mask(self._find(name, where)))
            except ImageError as error:
                raise DataError(f"{where}: {error}") from None
            self._read[name] = mask
        if (mask.height, mask.width) != (height, width):
            raise DataError(
                f"{where}: {quote(name)} is {mask.height}x{mask.width}, the photograph "
                f"{height}x{width}"
            )
        return mask

    def files(self) -> dict[str, Fingerprint]:
        """One fingerprint of all that were read; empty if none was."""
        if not self._read:
            return {}
        digest, size = hashlib.sha256(), 0
        for name, mask in sorted(self._read.items()):
            row = f"{name}\0{mask.height}\0{mask.width}\0".encode() + mask.counts + b"\n"
            digest.update(row)
            size += len(row)
        return {"mask files": Fingerprint(digest.hexdigest(), size)}

    def _find(self, name: str, where: str) -> Path:
        if not name.lower().endswith(".png"):
            raise DataError(
                f"{where}: {quote(name)} is neither polygons nor an RLE, nor the name of a .png file"
            )
        for root in self._roots:
            path = safe_join(root, name, where)
            if path.is_file():
                return path
        looked = ", ".join(show(str(root), 200) for root in self._roots)
        raise DataError(f"{where}: no mask file {quote(name)} in {looked}")
