"""List the images below a folder; skipped files are counted and named.

Names found on the disk are not judged here: one that cannot be used is quarantined when it is read.
Links are followed, as the folder is the user's own, but once: no loop, and nothing above the folder.
A name in a data file gets none of this trust (`paths.safe_join`).
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..display import counted, quote, show
from ..store import Stat
from .archives import read_members
from .images import IMAGE_SUFFIXES, is_readable_kind
from .own_files import own_folder, predictions
from .parquet_rows import ROWS
from .photo_files import ARCHIVE, PhotoFile

# Image types that svp does not decode, named first among the skipped files.
PICTURES = frozenset(
    [
        ".tif",
        ".tiff",
        ".bmp",
        ".gif",
        ".heic",
        ".heif",
        ".avif",
        ".jxl",
        ".jp2",
        ".j2k",
        ".ppm",
        ".pgm",
        ".tga",
        ".ico",
        ".psd",
        ".svg",
        ".exr",
        ".hdr",
        ".dng",
        ".cr2",
        ".cr3",
        ".nef",
        ".arw",
        ".orf",
        ".rw2",
        ".raf",
    ]
)


@dataclass
class Listing:
    """Files below `root`.

    names     photographs by relative POSIX path, sorted
    targets   of these, the ones that lie outside `root` behind a link: their real paths
    linked    links to folders that were followed
    skipped   skipped folders, and why
    own       files of `svp predict`
    passed    files that are not JPEG, PNG or WEBP, by suffix
    archives  tar and parquet files that hold photographs of the folder, and the number of these
    damaged   of these, the ones that could not be read to their end: (name, why, photographs found)
    unsafe    members of tar files, and objects, whose names are refused
    others    members of tar files that are no photographs, or hidden
    stats     of object storage: sizes and tags by name; of a member those of its tar file
    """

    root: Path
    names: list[str] = field(default_factory=list)
    targets: dict[str, str] = field(default_factory=dict)
    linked: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    own: list[str] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)
    pictures: list[str] = field(default_factory=list)
    hidden: int = 0
    archives: dict[str, int] = field(default_factory=dict)
    damaged: list[tuple[str, str, int]] = field(default_factory=list)
    unsafe: int = 0
    others: int = 0
    stats: dict[str, Stat] = field(default_factory=dict)

    def notices(self) -> list[str]:
        """Lines for the user; none if every file is a photograph of the folder itself."""
        return list(self._notices())

    def _notices(self) -> Iterator[str]:
        if self.passed:
            yield f"skipped: {self._files()}"
        if self.hidden:
            yield f"skipped: {self.hidden:,} hidden (names that start with a dot)"
        if self.archives:
            first, inside = next(iter(self.archives)), sum(self.archives.values())
            yield (
                f"read in place: {counted(inside, 'photograph')} in "
                f"{counted(len(self.archives), _kind(self.archives))} (first: {quote(first, 160)})"
            )
        if self.others:
            what = counted(self.others, "member")
            yield f"skipped: {what} of these not JPEG, PNG or WEBP, or hidden"
        if self.unsafe:
            objects = " or objects" if self.stats else ""
            what = counted(self.unsafe, "member")
            yield f"skipped: {what} of tar files{objects} with unsafe names"
        for name, why, photos in self.damaged[:12]:
            left = (
                counted(photos, "photograph") + f" before it {'is' if photos == 1 else 'are'} used"
            )
            lost = f"what follows is lost; {left}" if photos else "nothing in it is used"
            yield f"{_kind([name])} {quote(name, 160)}: {why}: {lost}"
        if len(self.damaged) > 12:
            kind = _kind([name for name, _, _ in self.damaged])
            yield f"{counted(len(self.damaged) - 12, f'damaged {kind}')} more"
        if self.own:
            first = quote(self.own[0], 160)
            yield f"skipped: {counted(len(self.own), 'picture')} made by svp predict (first: {first})"
        reasons = Counter(why for _, why in self.skipped)
        for why, count in reasons.items():
            first = next(name for name, reason in self.skipped if reason == why)
            yield f"skipped: {counted(count, 'folder')}: {why} (first: {quote(first, 160)})"
        if self.linked:
            first = quote(self.linked[0], 160)
            yield f"followed: {counted(len(self.linked), 'linked folder')} (first: {first})"
        if self.targets:
            name, target = next(iter(self.targets.items()))
            yield (
                f"{counted(len(self.targets), 'photograph')} of {len(self.names):,} behind links that lead "
                "elsewhere "
                f"(first: {quote(name, 160)} is {show(target, 200)})"
            )

    def _files(self) -> str:
        order = sorted(self.passed, key=lambda s: (s not in PICTURES, -self.passed[s], s))
        kinds = ", ".join(f"{self.passed[suffix]} {show(suffix, 20)}" for suffix in order[:12])
        more = f" and {counted(len(order) - 12, 'kind')} more" if len(order) > 12 else ""
        advice = (
            f" (first picture: {quote(self.pictures[0], 160)}): save pictures as JPEG or PNG"
            if self.pictures
            else ""
        )
        files = counted(self.passed.total(), "file")
        return f"{files} not JPEG, PNG or WEBP: {kinds}{more}{advice}"


def _kind(names: Iterable[str]) -> str:
    """Noun for files that hold photographs."""
    suffixes = {os.path.splitext(name)[1] for name in names}
    return {ARCHIVE: "tar file", ROWS: "parquet file"}.get("".join(suffixes), "file")


def list_images(root: Path, *, rows: bool = False) -> Listing:
    """Walk `root`. A folder without read permission is skipped and named, too.

    rows  rows of parquet files are photographs
    """
    walk = _Walk(root, rows)
    walk.go("", root)
    while walk.links:  # after the real folders: what these hold keeps its own name
        walk.follow(*walk.links.pop(0))
    found = walk.found
    found.names.sort()
    found.archives = dict(sorted(found.archives.items()))
    found.targets = {name: found.targets[name] for name in sorted(found.targets)}
    return found


def list_archive(path: Path) -> Listing:
    """The photographs in one tar or parquet file; names are relative to its folder."""
    walk = _Walk(path.parent, rows=True)
    walk.take(path.name, path)
    walk.found.names.sort()
    return walk.found


class _Walk:
    """The state of one walk."""

    def __init__(self, root: Path, rows: bool) -> None:
        self.base, self.rows = os.path.realpath(root), rows
        self.found = Listing(root)
        self.links: list[tuple[str, Path]] = []
        self._visited: set[str] = set()

    def follow(self, name: str, path: Path) -> None:
        real = os.path.realpath(path)
        if _inside(self.base, real):
            self.found.skipped.append((name, "a link to the folder itself or above it"))
        elif real in self._visited:
            self.found.skipped.append((name, "a link to a folder that is listed already"))
        else:
            self.found.linked.append(name)
            self.go(name, path)

    def go(self, name: str, path: Path) -> None:
        """Take a folder and all real folders below it."""
        waiting = [(name, path)]
        while waiting:
            waiting += self._visit(*waiting.pop())

    def _visit(self, name: str, path: Path) -> list[tuple[str, Path]]:
        real = os.path.realpath(path)
        if real in self._visited:
            return []
        self._visited.add(real)
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            self.found.skipped.append((name, f"cannot be read ({error.strerror})"))
            return []
        self.found.hidden += sum(entry.name.startswith(".") for entry in entries)
        entries = [entry for entry in entries if not entry.name.startswith(".")]
        folders = [entry for entry in entries if _is_folder(entry)]
        files = [entry for entry in entries if not _is_folder(entry)]
        kind = own_folder(path, (e.name for e in folders), (e.name for e in files))
        if kind is not None:
            self.found.skipped.append((name or ".", f"made by svp ({kind})"))
            return []
        made = predictions(entry.name for entry in files)
        for entry in files:
            below = f"{name}/{entry.name}" if name else entry.name
            if entry.name in made:
                self.found.own.append(below)
            else:
                self.take(below, Path(entry.path))
        waiting: list[tuple[str, Path]] = []
        for entry in folders:
            below = f"{name}/{entry.name}" if name else entry.name
            if entry.is_symlink():
                self.links.append((below, Path(entry.path)))
            else:
                waiting.append((below, Path(entry.path)))
        return waiting

    def take(self, name: str, path: Path) -> None:
        """Take one file: a photograph, an archive of photographs, or one that is passed over."""
        suffix = path.suffix.lower()
        holds = path.suffix == ARCHIVE or (self.rows and path.suffix == ROWS)
        if holds and self._take_archive(name, path):
            return
        if suffix not in IMAGE_SUFFIXES and not is_readable_kind(path):
            self.found.passed[suffix or "without suffix"] += 1
            if suffix in PICTURES:
                self.found.pictures.append(name)
            return
        self.found.names.append(name)
        real = os.path.realpath(path)
        if not _inside(real, self.base) and os.path.isfile(real):
            self.found.targets[name] = real

    def _take_archive(self, name: str, path: Path) -> bool:
        """Take the photographs in a file; False if there is none and nothing is wrong."""
        inside = read_members(PhotoFile(path), is_readable_kind)
        self.found.unsafe += inside.unsafe
        if inside.fault:
            self.found.damaged.append((name, inside.fault, len(inside.names)))
        if not inside.names:
            return bool(inside.fault)
        self.found.others += inside.other
        self.found.archives[name] = len(inside.names)
        real, outside = os.path.realpath(path), os.path.dirname(name)
        for member in inside.names:
            own = f"{outside}/{member}" if outside else member
            self.found.names.append(own)
            if not _inside(real, self.base):
                self.found.targets[own] = real + member.removeprefix(path.name)
        return True


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _inside(path: str, folder: str) -> bool:
    return os.path.commonpath((path, folder)) == folder
