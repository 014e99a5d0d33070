"""Data classes of downloadable files: URL, size, digest, licence."""

from dataclasses import dataclass

NEWEST = "/resolve/main/"  # in addresses of the hub; a commit may stand in the place of main
META = "https://dl.fbaipublicfiles.com"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file. `path` is relative to the destination folder.

    size    bytes; exact if `exact`, else an estimate that bounds the download (times `SLACK`)
    digest  "sha256:<hex>", "md5:<hex>" or "" where none is known
    unpack  the file is an archive whose members belong beside it
    """

    url: str
    path: str
    size: int
    digest: str = ""
    exact: bool = True
    unpack: bool = False

    SLACK = 1.5

    @property
    def moves(self) -> bool:
        """Whether it is the hub's newest file, by no digest told from an earlier one."""
        return not self.digest and NEWEST in self.url

    @property
    def limit(self) -> int:
        """Most bytes that may arrive."""
        return self.size if self.exact else int(self.size * self.SLACK)


@dataclass(frozen=True, slots=True)
class Remote:
    """Files and notes of one name of `svp fetch NAME`."""

    name: str
    about: str
    licence: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Bytes to download, all files together."""
        return sum(file.size for file in self.files)

    @property
    def exact(self) -> bool:
        """Whether every file's size is known to the byte."""
        return all(file.exact for file in self.files)

    @property
    def verified(self) -> bool:
        """Whether every file's digest is known."""
        return all(file.digest for file in self.files)

    @property
    def doubt(self) -> str:
        """Warning about files that may change, "" where every digest is known."""
        if any(file.moves for file in self.files):
            return "the newest files there, neither digest nor commit is known"
        return "" if self.verified else "no published digest"
