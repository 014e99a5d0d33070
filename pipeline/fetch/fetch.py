"""`svp fetch NAME`: download, verify and unpack official weights and annotation files.

The one place of the package that opens a network connection, and only when asked by name. A second
call finds the files in place and downloads nothing.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from ..display import shorten, size
from ..errors import ConfigError
from .catalogue import CHECKPOINTS, REMOTES, find_remote
from .download import PATIENT, Patience, Progress, download
from .published import NEWEST, Remote, RemoteFile
from .unpack import unpack


@dataclass(frozen=True, slots=True)
class Offer:
    """One line of `svp fetch` without a name."""

    name: str
    about: str
    size: int  # bytes
    exact: bool  # False: the size is an estimate
    verified: bool  # a digest is known for every file
    doubt: str  # what is not known of the files, see `Remote.doubt`
    licence: str
    present: bool  # every file is in the folder, with the right size where that is known


def fetch(
    name: str,
    dest: Path,
    *,
    base_url: str | None = None,
    revision: str | None = None,
    unpack_archives: bool = True,
    patience: Patience = PATIENT,
    on_file: Callable[[RemoteFile], Progress | None] | None = None,
) -> list[Path]:
    """Files of `name` under the folder `dest`: the downloads, then what their archives hold.

    base_url  a mirror that has the files by their names, instead of the official address
    revision  commit of the hub's repository, of a name whose files are the newest ones otherwise
    on_file   called before each download; may return a callback (bytes so far, bytes in all)

    ConfigError for an unknown name; MissingError, DataError as `download` and `unpack` raise them.
    """
    done: list[Path] = []
    found = find_remote(name)
    for file in found.files if revision is None else _of(found, revision):
        progress = on_file(file) if on_file else None
        target = download(
            file,
            dest / file.path,
            url=_mirrored(file, base_url),
            patience=patience,
            on_progress=progress,
        )
        done.append(target)
        if file.unpack and unpack_archives:
            done.extend(unpack(target, dest))
    return done


def _of(remote: Remote, revision: str) -> Iterator[RemoteFile]:
    """The files of one commit. Raises ConfigError."""
    if re.fullmatch("[0-9a-f]{40}", revision) is None:
        raise ConfigError(f"--revision {shorten(revision)}: need the 40 hex digits of a commit")
    if not all(file.moves for file in remote.files):
        raise ConfigError(f"--revision: {remote.name} is always the same files: leave it out")
    for file in remote.files:
        yield replace(file, url=file.url.replace(NEWEST, f"/resolve/{revision}/"))


def offers(dest: Path | None = None) -> list[Offer]:
    """Everything that can be fetched, and whether it is in `dest` already."""
    return [_offer(remote, dest) for remote in REMOTES.values()]


def offer_lines(dest: Path | None = None) -> list[str]:
    """The list as text: name, size, licence, description; files in `dest` are marked."""
    found = offers(dest)
    wide = max(len(offer.name) for offer in found)
    lines = [
        f"{'*' if offer.present else ' '} {offer.name:<{wide}}  {_size_text(offer):>9}  "
        f"{offer.about} [{offer.licence}]{f' ({offer.doubt})' if offer.doubt else ''}"
        for offer in found
    ]
    here = [] if dest is None else [f"* = complete in {shorten(str(dest))}"]
    wide = max(map(len, CHECKPOINTS))
    models = [
        f"  {name:<{wide}}  {size(known.size):>9}  {known.about}: "
        f"`hf download {known.repository}`, then {known.flag} hub:{known.repository}"
        for name, known in CHECKPOINTS.items()
    ]
    return [
        *lines,
        "Language models and checkpoints, which the hub's own client brings:",
        *models,
        *here,
        "Sizes marked ~ are estimates. Nothing is downloaded without a name.",
    ]


@contextmanager
def progress_bars() -> Iterator[Callable[[RemoteFile], Progress]]:
    """An `on_file` for `fetch` that draws a bar per file on stderr; plain lines if it is no tty."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Bars(
        "{task.description}", *columns, console=console, disable=not console.is_terminal
    ) as bars:

        def on_file(file: RemoteFile) -> Progress:
            if not console.is_terminal:
                console.print(f"{file.path} ({size(file.size)}) from {file.url}", markup=False)
            task = bars.add_task(Path(file.path).name, total=file.size)
            return lambda done, total: bars.update(task, completed=done, total=total)

        yield on_file


def _size_text(offer: Offer) -> str:
    return f"{'' if offer.exact else '~'}{size(offer.size)}"


def _offer(remote: Remote, dest: Path | None) -> Offer:
    return Offer(
        name=remote.name,
        about=remote.about,
        size=remote.size,
        exact=remote.exact,
        verified=remote.verified,
        doubt=remote.doubt,
        licence=remote.licence,
        present=dest is not None and all(_present(file, dest) for file in remote.files),
    )


def _present(file: RemoteFile, dest: Path) -> bool:
    path = dest / file.path
    return path.is_file() and (not file.exact or path.stat().st_size == file.size)


def _mirrored(file: RemoteFile, base_url: str | None) -> str | None:
    if base_url is None:
        return None
    return f"{base_url.rstrip('/')}/{quote(Path(file.path).name)}"
