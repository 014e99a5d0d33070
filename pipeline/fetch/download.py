"""Download one file over https: resumable, size-bounded, verified, renamed into place.

Invariant: a file under its final name is complete and has the expected size and digest. What
arrives lies in `<name>.partial`, with the server's validator beside it in `<name>.partial.etag`, so
that a resume never joins two versions of a file. Redirects are followed by hand: each hop must be
https. Plain http is accepted to loopback addresses only.
"""

import hashlib
import ipaddress
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from ..display import show
from ..errors import DataError, MissingError, MissingPackageError
from ..io.atomic import make_folders
from .published import RemoteFile

if TYPE_CHECKING:
    import httpx2

MAX_HOPS = 5
_RETRY_STATUS = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True, slots=True)
class Patience:
    """Timeouts and retries. Only consecutive attempts without a new byte are counted."""

    tries: int = 4
    backoff_s: float = 1.0  # doubled after each try
    timeout_s: float = 30.0


PATIENT = Patience()
Progress = Callable[[int, int], None]  # bytes so far, bytes expected


class _Again(Exception):
    """This try failed in a way that another one may cure."""


def download(
    file: RemoteFile,
    target: Path,
    *,
    url: str | None = None,
    patience: Patience = PATIENT,
    on_progress: Progress | None = None,
) -> Path:
    """`file` at `target`, from `url` or else its own address. A good file there is kept.

    MissingError when the server cannot be reached or does not have it (the message says where to
    put the file by hand); DataError when what it sends is not what was published.
    """
    address = url or file.url
    if target.is_file() and _matches(target, file):
        return target
    make_folders(target.parent)
    partial = target.with_name(target.name + ".partial")
    with _client(address, patience) as client:
        _persist(client, address, file, target, partial, patience, on_progress)
    _accept(partial, target, file, address)
    return target


def digest_of(path: Path, algorithm: str) -> str:
    """`<algorithm>:<hex>` of a file's bytes; algorithm is sha256 or md5."""
    with path.open("rb") as handle:
        found = hashlib.file_digest(handle, lambda: hashlib.new(algorithm, usedforsecurity=False))
    return f"{algorithm}:{found.hexdigest()}"


def _persist(
    client: "httpx2.Client",
    address: str,
    file: RemoteFile,
    target: Path,
    partial: Path,
    patience: Patience,
    on_progress: Progress | None,
) -> None:
    """Call `_receive` until the partial file is whole, or patience ends."""
    idle = 0
    while True:
        before = _size(partial)
        try:
            return _receive(client, address, file, partial, on_progress)
        except _Again as error:
            idle = 0 if _size(partial) > before else idle + 1
            if idle >= patience.tries:
                raise MissingError(_by_hand(address, target, str(error))) from None
            time.sleep(min(60.0, patience.backoff_s * 2 ** max(0, idle - 1)))


def _receive(
    client: "httpx2.Client",
    address: str,
    file: RemoteFile,
    partial: Path,
    on_progress: Progress | None,
) -> None:
    """One request; appends to `partial` what the server sends."""
    import httpx2

    offset, headers = _resume_point(partial, file)
    if offset == file.size and file.exact:
        return
    try:
        with _open(client, address, headers) as response:
            start, total = _judge(response, address, file, partial, offset)
            _check_space(partial, total - start if total else 0)
            _append(response, file, partial, start, total, on_progress)
    except httpx2.TransportError as error:
        raise _Again(f"{type(error).__name__}: {show(str(error))}") from None


def _resume_point(partial: Path, file: RemoteFile) -> tuple[int, dict[str, str]]:
    """Bytes kept from an earlier run, and the headers that ask for the rest of the same version."""
    offset = _size(partial)
    etag = _etag_file(partial).read_text() if _etag_file(partial).is_file() else ""
    if offset > file.limit or (offset and not etag and not file.digest):
        offset = _discard(partial)  # nothing could tell whether old and new bytes belong together
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if etag:
            headers["If-Range"] = etag
    return offset, headers


@contextmanager
def _open(
    client: "httpx2.Client", address: str, headers: dict[str, str]
) -> Iterator["httpx2.Response"]:
    """The response after at most `MAX_HOPS` redirects, each to an allowed address."""
    for _ in range(MAX_HOPS + 1):
        _check_address(address)
        with client.stream("GET", address, headers=headers) as response:
            if not response.is_redirect:
                yield response
                return
            address = urljoin(address, response.headers.get("location", ""))
    raise DataError(f"{show(address)}: more than {MAX_HOPS} redirects")


def _judge(
    response: "httpx2.Response", address: str, file: RemoteFile, partial: Path, offset: int
) -> tuple[int, int]:
    """First byte this response brings and the size of the whole file (0 if it does not say)."""
    status = response.status_code
    if status in _RETRY_STATUS:
        raise _Again(f"the server answers {status}")
    if status == 416:
        _discard(partial)
        raise _Again("the server cannot resume the partial file; the download restarts")
    if status not in (200, 206):
        place = partial.with_suffix("")
        raise MissingError(_by_hand(address, place, f"the server answers {status}"))
    start, total = _extent(response, offset)
    if start != offset:
        _discard(partial)
    if total > file.limit or (total and file.exact and total != file.size):
        kind = "exactly" if file.exact else "about"
        raise DataError(
            f"{show(address)} offers {total} bytes, expected {kind} {file.size}: "
            "the file has moved or changed; nothing was kept from this answer"
        )
    if etag := _validator(response):
        _etag_file(partial).write_text(etag)
    return start, total


def _extent(response: "httpx2.Response", offset: int) -> tuple[int, int]:
    length = response.headers.get("content-length", "")
    if response.status_code == 200:
        return 0, int(length) if length.isdecimal() else 0
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("content-range", ""))
    if found is None or int(found[1]) != offset:
        raise DataError(f"{show(str(response.url))}: resuming at byte {offset} got another range")
    return offset, int(found[2]) if found[2].isdecimal() else 0


def _append(
    response: "httpx2.Response",
    file: RemoteFile,
    partial: Path,
    start: int,
    total: int,
    on_progress: Progress | None,
) -> None:
    done = start
    with partial.open("ab") as out:
        for chunk in response.iter_raw():  # raw: a compressed answer is never inflated
            done += len(chunk)
            if done > file.limit:
                raise DataError(f"{show(str(response.url))}: more than {file.limit} bytes arrived")
            out.write(chunk)
            if on_progress:
                on_progress(done, total or file.size)
        out.flush()
        os.fsync(out.fileno())
    if done < (total or (file.size if file.exact else 0)):
        raise _Again(f"the connection ended after {done} bytes")


def _accept(partial: Path, target: Path, file: RemoteFile, address: str) -> None:
    """Rename `partial` to `target` if its digest is right; delete it if not."""
    expected = file.digest
    found = digest_of(partial, expected.partition(":")[0]) if expected else ""
    if found != expected:
        _discard(partial)
        raise DataError(
            f"{show(address)}: {found} is not the published {expected}; "
            "the download was deleted: try again or use another mirror"
        )
    os.replace(partial, target)
    _etag_file(partial).unlink(missing_ok=True)


def _matches(path: Path, file: RemoteFile) -> bool:
    if file.exact and path.stat().st_size != file.size:
        return False
    return not file.digest or digest_of(path, file.digest.partition(":")[0]) == file.digest


def _check_address(address: str) -> None:
    parts = urlsplit(address)
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname)):
        return
    raise DataError(f"{show(address)}: only https addresses are fetched")


def _is_loopback(host: str | None) -> bool:
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"


def _check_space(partial: Path, needed: int) -> None:
    free = shutil.disk_usage(partial.parent).free
    if needed > free:
        raise DataError(f"{show(str(partial.parent))}: {needed} bytes needed, {free} free")


def _validator(response: "httpx2.Response") -> str:
    etag: str = response.headers.get("etag", "")
    # A weak validator does not promise equal bytes, so If-Range may not use it (RFC 9110, 13.1.5).
    return "" if etag.startswith("W/") or len(etag) > 200 else etag


def _etag_file(partial: Path) -> Path:
    return partial.with_name(partial.name + ".etag")


def _discard(partial: Path) -> int:
    partial.unlink(missing_ok=True)
    _etag_file(partial).unlink(missing_ok=True)
    return 0


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _by_hand(address: str, target: Path, reason: str) -> str:
    return (
        f"cannot get {show(address, 300)} ({reason}). "
        f"Get it on another machine and put it at {show(str(target), 300)}"
    )


def _client(address: str, patience: Patience) -> "httpx2.Client":
    try:
        import httpx2
    except ImportError:
        raise MissingPackageError("httpx2", "fetch", "svp fetch") from None
    # Loopback addresses are never sent through a proxy of the environment.
    trust = not _is_loopback(urlsplit(address).hostname)
    return httpx2.Client(timeout=patience.timeout_s, follow_redirects=False, trust_env=trust)
