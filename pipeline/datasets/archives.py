"""Photographs in tar files, found by the headers of the members; the rest is not read.

Works on a file of this machine and on an object of a bucket, of which ranges are read.
"""

import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass

from ..display import show
from ..errors import DataError
from ..io.paths import check_name
from .parquet_rows import ROWS, read_rows
from .photo_files import Photo, PhotoFile, SpecialFileError
from .stored_photos import StoredPhoto

_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd


@dataclass
class Archive:
    """Members of a tar file, or rows of a parquet file: names as `photo_file` takes them below the archive's folder.

    other   members that are no photographs, as SA-1B's annotations, or hidden
    unsafe  members whose names are refused
    fault   what is wrong with the archive, "" if it could be read to its end
    """

    names: list[str]
    other: int = 0
    unsafe: int = 0
    fault: str = ""


def read_members(path: PhotoFile | StoredPhoto, is_photo: Callable[[Photo], bool]) -> Archive:
    """`read_archive`, or of a parquet file its rows; these raise what `read_rows` raises."""
    if path.name.endswith(ROWS):
        names, fault = read_rows(path)
        return Archive(names, fault=fault)
    return read_archive(path, is_photo)


def read_archive(path: PhotoFile | StoredPhoto, is_photo: Callable[[Photo], bool]) -> Archive:
    """The photographs in a tar file, by reading its headers; of equal names the last, as tar does.

    A link to a photograph in the same archive is one, too: tar stores a file of two names once.
    Never raises for what is in the file: members before a damaged place are listed. CacheError if
    the service that holds it fails.
    """
    found = Archive([])
    photos: dict[str, str] = {}  # name -> position
    links: dict[str, str] = {}
    try:
        size = path.examine()
        with path.open_sparse() as file, tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # else it keeps all headers
                if member.size < 0:  # the next header would be this one again, without end
                    raise tarfile.ReadError(f"damaged at byte {member.offset}")
                name = member.name.removeprefix("./")
                position = f"#{member.offset_data},{member.size}"
                if member.isdir():
                    continue
                if not _usable(name) or not _usable(f"{path.name}/{name}{position}"):
                    found.unsafe += 1
                    continue
                photos.pop(name, None)
                links.pop(name, None)
                photo = path.part(name, member.offset_data, member.size)
                if any(part.startswith(".") and part != "." for part in name.split("/")):
                    found.other += 1
                elif member.islnk():
                    links[name] = member.linkname.removeprefix("./")
                elif member.issym():
                    target = os.path.join(os.path.dirname(name), member.linkname)
                    links[name] = os.path.normpath(target)
                elif not member.isreg() or member.issparse() or not is_photo(photo):
                    found.other += 1
                elif member.offset_data + member.size > size:
                    found.fault = f"cut short in {show(name, 80)}"
                else:
                    photos[name] = position
            found.fault = found.fault or _end_fault(path, archive.offset)
    except SpecialFileError:
        return Archive([], fault="not a regular file")
    except tarfile.ReadError as error:
        found.fault = found.fault or _compressed(path) or show(str(error), 80)
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        found.fault = found.fault or show(str(error) or type(error).__name__, 80)
    linked = {name: photos[target] for name, target in links.items() if target in photos}
    found.other += len(links) - len(linked)
    found.names = [f"{path.name}/{name}{position}" for name, position in (photos | linked).items()]
    return found


def _usable(name: str) -> bool:
    try:
        check_name(name, "archive")
    except DataError:
        return False
    return True


def _compressed(path: PhotoFile | StoredPhoto) -> str:
    """Fault of an archive that is compressed as a whole: no member has a place in the file."""
    with path.open_sparse() as file:
        head = file.read(6)
    packed = any(head.startswith(magic) for magic in _COMPRESSED)
    return "compressed: decompress it, so that members can be read in place" if packed else ""


def _end_fault(path: PhotoFile | StoredPhoto, offset: int) -> str:
    """Fault at the end of an archive: `tarfile` takes a damaged header for the end, too."""
    with path.open_sparse() as file:
        file.seek(offset)
        block = file.read(tarfile.BLOCKSIZE)
    if not block:
        return "ends without an end mark: it may be cut short"
    return f"damaged at byte {offset}" if block.strip(b"\0") else ""
