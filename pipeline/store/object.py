"""Store in a bucket: Amazon S3 and what speaks its protocol, Google Cloud Storage, Azure Blob.

`create` is a PUT that the service refuses where the object exists (If-None-Match: *). An answer may
be lost after the service has carried it out: the repeated PUT is then refused, the object compared,
and found to hold the same bytes. Digest and maker of a file are metadata of its object.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from os.path import commonprefix
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, unquote
from uuid import uuid4

import xxhash

from ..display import show, size
from ..errors import CacheError, MissingError, SvpError
from .in_flight import Failed, read_all
from .object_client import (
    Fault,
    RetryPolicy,
    Stopped,
    read_fault,
    repeated,
    request_errors,
)
from .protocol import (
    MAX_MAKER,
    Created,
    File,
    OtherBytesError,
    Parts,
    Read,
    Stat,
    bad_size,
    changed,
    check_key,
    pieces,
)

if TYPE_CHECKING:
    from obstore import Attributes, GetResult, ObjectMeta, PutMode, PutResult, UpdateVersion
    from obstore.store import ObjectStore as Client

DIGEST, MAKER = "svpdigest", "svpmaker"  # metadata names: letters alone are allowed everywhere
MAX_HEADER = 1000  # bytes
MAX_PUT = 5 << 30  # bytes in one request, of S3
# Objects per step of a listing: a fault costs those of one step, which then starts again.
LIST_CHUNK = 50
ATTEMPTS = 10
FEW = 4  # sizes asked for one by one
DELETING = 32  # deletions at once

_T = TypeVar("_T")


@dataclass(frozen=True)
class ObjectStore:
    """The objects of bucket `address` (s3://bucket) below `prefix`."""

    address: str
    prefix: str = ""
    policy: RetryPolicy = field(default_factory=RetryPolicy)

    def __str__(self) -> str:
        return self.where()

    def where(self, key: str = "") -> str:
        return "/".join(filter(None, [self.address, self.prefix, key]))

    def sub(self, prefix: str) -> "ObjectStore":
        return ObjectStore(self.address, self._key(prefix), self.policy)

    def stat(self, key: str) -> Stat:
        found, attributes = self._look(key)
        maker = unquote(str(attributes.get(MAKER, "")))
        return Stat(found["size"], _tag(found), maker, found["last_modified"].timestamp())

    def read(self, key: str, limit: int) -> bytes:
        return self.read_tagged(key, limit)[0]

    def read_tagged(self, key: str, limit: int) -> tuple[bytes, str]:
        def get(store: "Client") -> tuple[bytes, str]:
            from obstore import get

            found = get(store, self._key(key))
            length = found.meta["size"]
            if not 1 <= length <= limit:
                raise bad_size(self.where(key), length, limit)
            return bytes(found.bytes()), _tag(found.meta)

        return self._run(key, get)

    def tail(self, key: str, n: int) -> tuple[bytes, int]:
        def get(store: "Client") -> tuple[bytes, int]:
            from obstore import get

            found = get(store, self._key(key), options={"range": {"suffix": n}})
            return bytes(found.bytes()), found.meta["size"]

        def get_in_two(length: int) -> Callable[["Client"], tuple[bytes, int]]:
            def get(store: "Client") -> tuple[bytes, int]:
                from obstore import get_range

                first = max(0, length - n)
                return bytes(get_range(store, self._key(key), start=first, end=length)), length

            return get

        if n > 0 and not self.address.startswith("az://"):
            try:
                return self._try(key, get)
            except Stopped as stopped:
                if stopped.fault.kind != "range":  # an empty object has no last bytes
                    raise stopped.fault.error(self.where(key)) from None
        # Azure has no ranges that count from the end.
        length = self._look(key)[0]["size"]
        return self._run(key, get_in_two(length)) if n > 0 and length else (b"", length)

    def open(self, key: str) -> File:
        self._key(key)
        return _Opened(self, key)

    def digest(self, key: str) -> tuple[int, str]:
        found, digest = self.stat(key), xxhash.xxh3_64()
        for piece in pieces(self, key, found.bytes):
            digest.update(piece)
        return found.bytes, digest.hexdigest()

    def read_many(self, reads: Sequence[Read]) -> None:
        for read in reads:
            self._key(read.key)
        before = f"{self.prefix}/" if self.prefix else ""
        try:
            read_all(self.address, before, reads, self.policy, f"{self.where()}/")
        except Failed as failed:
            raise failed.fault.error(self.where(failed.read.key)) from None

    def create(
        self, key: str, parts: Parts, *, who: str = "", label: str = "", shard: int | None = None
    ) -> Created:
        data = b"".join(parts)
        digest = xxhash.xxh3_64_hexdigest(data)
        if len(data) > MAX_PUT:
            raise CacheError(
                f"{show(self.where(key), 300)}: {size(len(data))} in one object, at most "
                f"{size(MAX_PUT)}: use a folder instead of an address"
            )
        for _ in range(ATTEMPTS):
            try:
                self._put(key, data, "create", {DIGEST: digest, MAKER: _header(who)})
                return Created(True, len(data), digest)
            except Stopped as stopped:
                if stopped.fault.kind != "taken":
                    raise self._refusal(key, stopped.fault) from None
            theirs = self._there(key)
            if theirs is None:
                continue  # deleted in the meantime
            length, found, maker = theirs
            if (length, found) != (len(data), digest):
                raise OtherBytesError(self.where(key), digest, found, who[:MAX_MAKER], maker)
            return Created(False, len(data), digest)
        raise CacheError(
            f"{show(self.where(key), 300)}: is made and deleted by turns: stop one of the runs"
        )

    def replace(
        self,
        key: str,
        data: bytes,
        if_match: str | None = None,
        *,
        label: str = "",
        shard: int | None = None,
    ) -> str:
        mode: PutMode | None = "overwrite" if if_match is None else _version(if_match)
        if mode is None:
            raise changed(self.where(key))
        try:
            return _tag(self._put(key, data, mode, {}))
        except Stopped as stopped:
            fault = stopped.fault
        if if_match is None or fault.kind not in ("changed", "missing"):
            raise fault.error(self.where(key))
        # An earlier attempt may have been carried out and its answer lost: these are its bytes.
        try:
            tag, there = self.stat(key).tag, self.digest(key)
        except MissingError:
            raise changed(self.where(key)) from None
        if there != (len(data), xxhash.xxh3_64_hexdigest(data)):
            raise changed(self.where(key))
        return tag

    def delete(self, key: str, if_match: str | None = None) -> bool:
        def remove(store: "Client") -> None:
            from obstore import delete

            delete(store, self._key(key))

        # No service deletes by version everywhere: between the look and the deletion there is a
        # moment in which another process may replace the object.
        try:
            found = self._try(key, self._head(key)).meta
        except Stopped as stopped:
            if stopped.fault.kind == "missing" and stopped.fault.code != "NoSuchBucket":
                return False
            raise stopped.fault.error(self.where(key)) from None
        if if_match is not None and _tag(found) != (if_match or None):
            raise changed(self.where(key))
        try:
            self._try(key, remove)
        except Stopped as stopped:
            if stopped.fault.kind != "missing":
                raise stopped.fault.error(self.where(key)) from None
        return True

    def sizes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        return ((key, found.bytes) for key, found in self.stats(prefix))

    def stats(self, prefix: str = "") -> Iterator[tuple[str, Stat]]:
        below = self._key(prefix) if prefix else self.prefix
        cut = len(self.prefix) + 1 if self.prefix else 0
        stream: Iterator[Sequence[ObjectMeta]] | None = None
        last: str | None = None

        def next_page(store: "Client") -> "Sequence[ObjectMeta] | None":
            from obstore import list as list_objects

            nonlocal stream
            pages = stream or list_objects(store, below or None, offset=last, chunk_size=LIST_CHUNK)
            stream = None  # a stream that failed is not used again
            page = next(pages, None)
            stream = pages
            return page

        while (page := self._run(prefix, next_page)) is not None:
            for found in page:
                last = found["path"]
                made = found["last_modified"].timestamp()
                yield last[cut:], Stat(found["size"], _tag(found), "", made)

    def sizes_of(self, keys: Sequence[str]) -> dict[str, int]:
        if len(keys) <= FEW:
            found = {}
            for key in keys:
                with suppress(MissingError):
                    found[key] = self.stat(key).bytes
            return found
        # One listing of the folder that holds them all, a thousand names to a request.
        folder = commonprefix([key.split("/")[:-1] for key in keys])
        wanted = set(keys)
        return {key: size for key, size in self.sizes("/".join(folder)) if key in wanted}

    def delete_below(self, prefix: str) -> None:
        keys = [key for key, _ in self.sizes(prefix)]
        with ThreadPoolExecutor(DELETING) as pool:
            list(pool.map(self.delete, keys))

    def require_create(self) -> None:
        key = f"probe-{uuid4().hex}"
        self.create(key, [b"first"])
        try:
            self.create(key, [b"second"])
        except OtherBytesError:
            return
        finally:
            self.delete(key)
        raise _no_create(self.where(), "it replaced an object that it was to keep")

    def tidy(self) -> int:
        return 0

    def _key(self, key: str) -> str:
        check_key(key, self.where())
        return f"{self.prefix}/{key}" if self.prefix else key

    def _try(self, key: str, call: Callable[["Client"], _T]) -> _T:
        """`repeated` with this store's client. Raises Stopped."""
        return repeated(self.address, self.policy, call, self.where(key))

    def _run(self, key: str, call: Callable[["Client"], _T]) -> _T:
        """`_try`, with the error for people."""
        try:
            return self._try(key, call)
        except Stopped as stopped:
            raise stopped.fault.error(self.where(key)) from None

    def _put(self, key: str, data: bytes, mode: "PutMode", metadata: dict[str, str]) -> "PutResult":
        def put(store: "Client") -> "PutResult":
            from obstore import put

            return put(
                store, self._key(key), data, mode=mode, use_multipart=False,
                attributes={name: value for name, value in metadata.items() if value},
            )  # fmt: skip

        return self._try(key, put)

    def _head(self, key: str) -> "Callable[[Client], GetResult]":
        def head(store: "Client") -> "GetResult":
            from obstore import get

            try:
                return get(store, self._key(key), options={"head": True})
            except request_errors() as error:
                if read_fault(error).kind not in ("missing", "lasting"):
                    raise
            # The answer to HEAD has no body, so no error code: a GET has. Its body is not read.
            return get(store, self._key(key))

        return head

    def _look(self, key: str) -> "tuple[ObjectMeta, Attributes]":
        found = self._run(key, self._head(key))
        return found.meta, found.attributes

    def _there(self, key: str) -> tuple[int, str, str] | None:
        """Size, xxh3_64 and maker of an object that is there; None if it is not."""
        try:
            found, attributes = self._look(key)
            maker = unquote(str(attributes.get(MAKER, "")))
            if DIGEST in attributes:
                return found["size"], str(attributes[DIGEST]), maker
            # Uploaded by other means, or by a gateway that drops metadata.
            return *self.digest(key), maker
        except MissingError:
            return None

    def _refusal(self, key: str, fault: Fault) -> SvpError:
        if fault.unsupported:
            return _no_create(self.where(), fault.cause)
        return fault.error(self.where(key))


@dataclass(frozen=True)
class _Opened:
    """`File` of an object: nothing is held open, every read is a request."""

    store: ObjectStore
    key: str

    def tail(self, n: int) -> tuple[bytes, int]:
        return self.store.tail(self.key, n)

    def read(self, views: Sequence[memoryview], offset: int) -> int:
        read = Read(self.key, offset, views)
        self.store.read_many([read])
        return read.bytes


def _no_create(where: str, cause: str) -> CacheError:
    return CacheError(
        f"{show(where, 300)}: the service has no create-only writes ({cause}): two writers could "
        "replace each other's files: use a service with conditional PUT, as S3, Google Cloud "
        "Storage, Azure, R2 and MinIO are, or a folder"
    )


def _tag(found: "ObjectMeta | PutResult") -> str:
    if not (found["e_tag"] or found["version"]):
        return ""
    return json.dumps([found["e_tag"], found["version"]])


def _version(tag: str) -> "UpdateVersion | None":
    """The version of a tag; None if it is none of `_tag`, which matches nothing."""
    try:
        e_tag, version = json.loads(tag)
    except ValueError:
        return None
    found: UpdateVersion = {"e_tag": e_tag}
    if version:
        found["version"] = version
    return found


def _header(who: str) -> str:
    """`who` in characters that a header may hold, cut to its limit."""
    return re.sub(r"%.?$", "", quote(who[:MAX_MAKER], safe=" ,.()")[:MAX_HEADER]).strip()
