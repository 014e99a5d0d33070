"""Header checks of all images, reported before anything is computed.

Each file is opened once, no pixel is decoded. What cannot be read is no error here: it goes to the
quarantine list when its turn comes, and is named now.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path

from ..display import counted, quote
from ..errors import DataError, ImageError
from ..records import ImageRecord
from ..store import Stat, is_url
from .images import Header, image_header
from .photo_files import known_size, photo_file
from .seen_photos import HEADER, SeenPhotos

QUARANTINE = "will be quarantined: "
NAMED = 20  # files that cannot be read, named one by one


@dataclass
class Photos:
    """The photographs under `root` that were looked at.

    listed  objects by name, where the root is an address whose listing is known
    bad     (reason, message) by name of those that will be quarantined
    turned  names of those an EXIF orientation turns or mirrors
    lying   of these, the ones whose annotations have the stored size: they are left as stored
    deep    names of 16-bit grey ones
    """

    root: Path
    listed: Mapping[str, Stat] = field(default_factory=dict)
    seen: int = 0
    bad: dict[str, tuple[str, str]] = field(default_factory=dict)
    turned: list[str] = field(default_factory=list)
    lying: list[str] = field(default_factory=list)
    deep: list[str] = field(default_factory=list)

    def look(self, name: str) -> Header | None:
        """The header of one photograph; None, noted in `bad`, if it cannot be read."""
        return self._note(name, self._header(name))

    def look_all(self, names: Sequence[str]) -> Iterator[Header | None]:
        """`look` at each of `names`, of object storage at many at once."""
        if not is_url(self.root):
            yield from map(self.look, names)
            return
        found = SeenPhotos(self.root).through(
            HEADER, names, self.listed, self._header,
            lambda header: None if isinstance(header, tuple) else astuple(header),
            lambda values: Header((values[0][0], values[0][1]), *values[1:]),
        )  # fmt: skip
        for name, header in found:
            yield self._note(name, header)

    def _header(self, name: str) -> Header | tuple[str, str]:
        """The header, or why it cannot be had: reason and message."""
        size = known_size(name, self.listed.get(name))
        try:
            return image_header(photo_file(self.root, name, "image", size))
        except ImageError as error:
            return error.reason, str(error)
        except DataError as error:
            return "unsafe-path", f"unsafe-path: {error}"

    def _note(self, name: str, header: Header | tuple[str, str]) -> Header | None:
        self.seen += 1
        if isinstance(header, tuple):
            self.bad[name] = header
            return None
        if header.orientation != 1:
            self.turned.append(name)
        if header.deep:
            self.deep.append(name)
        return header

    def look_for(self, records: Sequence[ImageRecord]) -> None:
        """`look_all`, and note those whose size is not the one the annotations state."""
        headers = self.look_all([record.path for record in records])
        for record, header in zip(records, headers, strict=True):
            if header is not None and record.height:
                self._compare(record, header)

    def _compare(self, record: ImageRecord, header: Header) -> None:
        wanted = (record.height, record.width)
        if wanted not in (header.upright, header.stored):
            found = "{}x{}".format(*header.stored)
            hint = "; turned by 90 degrees it would match" if wanted == header.stored[::-1] else ""
            line = f"{found}, the annotations say {wanted[0]}x{wanted[1]}{hint}"
            self.bad[record.path] = "wrong-size", f"image {quote(record.path)}: wrong-size: {line}"
        else:
            self.settle(record.path, wanted, header)

    def settle(self, name: str, size: tuple[int, int], header: Header) -> None:
        """Note that annotations give a photograph this size, its upright or its stored one."""
        if size != header.upright:
            self.lying.append(name)

    def notices(self) -> list[str]:
        """Lines for the user; none if all is plain."""
        found = [f"{QUARANTINE}{line}" for _, line in list(self.bad.values())[:NAMED]]
        if len(self.bad) > NAMED:
            rest = counted(len(self.bad) - NAMED, "photograph")
            found.append(f"{QUARANTINE}{rest} more")
        lying = set(self.lying)
        if upright := [name for name in self.turned if name not in lying]:
            found.append(
                f"turned upright by their EXIF orientation: {self._of(upright)}; annotations are "
                f"taken as drawn upright {_first(upright)}"
            )
        if lying:
            found.append(
                f"left as stored, against their EXIF orientation: {self._of(self.lying)}, whose "
                f"annotations have the stored size {_first(self.lying)}"
            )
        if self.deep:
            found.append(
                f"16-bit grey: {self._of(self.deep)}; the high byte of each value is read, so that "
                "what uses 12 bits or fewer is nearly black unless it is scaled to 0..65535 first "
                f"{_first(self.deep)}"
            )
        return found

    def _of(self, names: list[str]) -> str:
        return f"{len(names):,} of {counted(self.seen, 'photograph')}"


def look_at(
    root: Path, records: Sequence[ImageRecord], listed: Mapping[str, Stat] | None = None
) -> Photos:
    """All photographs of a source; `listed` as in `Photos`."""
    photos = Photos(root, listed or {})
    photos.look_for(records)
    return photos


def _first(names: list[str]) -> str:
    return f"(first: {quote(names[0], 160)})"
