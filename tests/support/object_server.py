"""An S3-like object server in a process of its own, with latency and faults to order.

It speaks the part of S3 that stores need: GET with Range, HEAD, PUT with If-None-Match and
If-Match, DELETE, DeleteObjects, ListObjectsV2; and where Google Cloud Storage (XML) and Azure Blob
differ in these, that too. Signatures are not looked at. Objects lie in memory; every bucket exists
but `absent`. Faults are drawn from one seed. By hand: `python -m support.object_server --port 9000`.
"""

import argparse
import asyncio
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from dataclasses import asdict, dataclass, field
from email.utils import formatdate
from itertools import count
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI-secret"
METADATA = ("x-amz-meta-", "x-goog-meta-", "x-ms-meta-")
STATUS = {
    200: "OK", 201: "Created", 202: "Accepted", 204: "No Content", 206: "Partial Content", 400: "Bad Request", 403: "Forbidden",
    404: "Not Found", 409: "Conflict", 412: "Precondition Failed", 416: "Range Not Satisfiable",
    429: "Too Many Requests", 500: "Internal Server Error", 501: "Not Implemented",
    503: "Service Unavailable",
}  # fmt: skip
CONTROL = "/-/"


@dataclass
class Knobs:
    """Faults and delays. A `*_rate` is the share of requests (0 to 1) that are struck."""

    latency: float = 0.0  # seconds before the first byte of each answer
    error_rate: float = 0.0  # answered with `error`
    error: int = 503
    cut_rate: float = 0.0  # GET: half of the body, then the connection is closed
    slow_rate: float = 0.0  # GET: body at `slow_bps`
    slow_bps: float = 1e5
    hang_rate: float = 0.0  # no answer for `hang` seconds
    hang: float = 60.0
    hang_every: int = 0  # as `hang_rate`, for each n-th request
    lost_rate: float = 0.0  # PUT: carried out, then the connection is closed without an answer
    conflict_rate: float = 0.0  # PUT: 409, as S3 answers two conditional PUTs at once
    ignore_create: bool = False  # If-None-Match is not looked at
    no_create: bool = False  # If-None-Match is answered with 501
    drop_metadata: bool = False
    refuse: str = ""  # every request: this code, such as ExpiredToken
    page: int = 1000  # keys of one listing
    seed: int = 0


@dataclass
class Object:
    """One object of a bucket."""

    data: bytes
    metadata: dict[str, str]
    generation: int = 0
    etag: str = ""
    modified: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        self.etag = f'"{hashlib.md5(self.data, usedforsecurity=False).hexdigest()}"'

    def headers(self) -> dict[str, str]:
        return {
            "ETag": self.etag,
            "Last-Modified": formatdate(self.modified, usegmt=True),
            "Accept-Ranges": "bytes",
            **({"x-goog-generation": str(self.generation)} if self.generation else {}),
            **self.metadata,
        }


@dataclass
class Request:
    """One request; header names in lower case."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    """Status, body and headers; `size`: of the body that a HEAD leaves out."""

    status: int
    body: bytes | memoryview = b""
    headers: dict[str, str] = field(default_factory=dict)
    size: int | None = None


def failure(status: int, code: str, text: str = "") -> Answer:
    body = (
        f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{escape(text)}</Message></Error>"
    )
    return Answer(status, body.encode(), {"Content-Type": "application/xml"})


class Server:
    """The objects, the knobs, and the number of requests by kind."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.knobs = Knobs()
        self.random = random.Random(0)
        self.counts: Counter[str] = Counter()
        self.generations = count(1)
        self.server: asyncio.Server

    async def start(self, port: int) -> int:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", port, limit=1 << 20)
        bound: int = self.server.sockets[0].getsockname()[1]
        return bound

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self.exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; False: the connection is to be closed."""
        request = await read_request(reader)
        if request.path.startswith(CONTROL):
            await send(writer, request, self.control(request))
            return True
        knobs, struck = self.knobs, self.strike
        self.counts[kind(request)] += 1
        number = sum(self.counts.values())
        if struck(knobs.hang_rate) or (knobs.hang_every and number % knobs.hang_every == 0):
            await asyncio.sleep(knobs.hang)
        if knobs.latency:
            await asyncio.sleep(knobs.latency)
        if struck(knobs.error_rate):
            answer = failure(knobs.error, "SlowDown" if knobs.error == 503 else "InternalError")
        elif request.method == "PUT" and struck(knobs.conflict_rate):
            answer = failure(409, "ConditionalRequestConflict")
        else:
            answer = self.answer(request)
        if request.method == "PUT" and struck(knobs.lost_rate):
            return False
        cut = request.method == "GET" and answer.status in (200, 206) and struck(knobs.cut_rate)
        slow = request.method == "GET" and struck(knobs.slow_rate)
        await send(writer, request, answer, cut=cut, bps=knobs.slow_bps if slow else None)
        return not cut

    def strike(self, rate: float) -> bool:
        return rate > 0 and self.random.random() < rate

    def control(self, request: Request) -> Answer:
        name = request.path.removeprefix(CONTROL)
        if name == "knobs":
            self.knobs = Knobs(**json.loads(request.body))
            self.random = random.Random(self.knobs.seed)
        elif name == "clear":
            self.objects.clear()
        elif name == "objects":
            given = json.loads(request.body)
            self.objects.update({key: Object(data.encode(), {}) for key, data in given.items()})
        counts = dict(self.counts)
        if name == "knobs":
            self.counts.clear()
        return Answer(200, json.dumps(counts).encode())

    def answer(self, request: Request) -> Answer:
        knobs = self.knobs
        if knobs.refuse:
            status = {"SlowDown": 503, "AccessDenied": 403, "RequestTimeTooSkewed": 403}
            return failure(status.get(knobs.refuse, 400), knobs.refuse, f"refused to {KEY}")
        bucket, _, key = request.path[1:].partition("/")
        if bucket == "absent":
            return failure(404, "NoSuchBucket")
        if not key and "comp" in request.query:
            listing = request.method == "GET"
            return (self.list_azure if listing else self.batch_azure)(bucket, request)
        if not key:
            return (self.list if request.method == "GET" else self.delete_many)(bucket, request)
        name = f"{bucket}/{key}"
        there = self.objects.get(name)
        match request.method:
            case "GET" | "HEAD" if there is None:
                return failure(404, "NoSuchKey")
            case "GET" | "HEAD":
                return get(there, request) if there else Answer(500)
            case "PUT":
                return self.put(name, there, request)
            case "DELETE":
                self.objects.pop(name, None)
                return Answer(204)
        return failure(501, "NotImplemented")

    def put(self, name: str, there: Object | None, request: Request) -> Answer:
        if "if-none-match" in request.headers and self.knobs.no_create:
            return failure(501, "NotImplemented", "If-None-Match")
        azure = "x-ms-blob-type" in request.headers
        if "if-none-match" in request.headers and there and not self.knobs.ignore_create:
            exists = (409, "BlobAlreadyExists") if azure else (412, "PreconditionFailed")
            return failure(*exists, "If-None-Match")
        generation = request.headers.get("x-goog-if-generation-match")
        if generation is not None and int(generation) != (there.generation if there else 0):
            return failure(412, "PreconditionFailed", "x-goog-if-generation-match")
        wanted = request.headers.get("if-match")
        if wanted and there is None:
            return failure(404, "NoSuchKey")
        if wanted and there and wanted != there.etag:
            return failure(412, "PreconditionFailed", "If-Match")
        kept = {k: v for k, v in request.headers.items() if k.startswith(METADATA)}
        made = Object(request.body, {} if self.knobs.drop_metadata else kept)
        google = any(name.startswith("x-goog-") for name in request.headers) or (
            request.headers.get("authorization", "").startswith("Bearer")
        )
        made.generation = next(self.generations) if google else 0
        self.objects[name] = made
        return Answer(201 if azure else 200, headers=made.headers())

    def delete_many(self, bucket: str, request: Request) -> Answer:
        keys = [unescape(key) for key in re.findall(r"<Key>(.*?)</Key>", request.body.decode())]
        for key in keys:
            self.objects.pop(f"{bucket}/{key}", None)
        rows = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        return Answer(200, f"<DeleteResult>{rows}</DeleteResult>".encode())

    def list(self, bucket: str, request: Request) -> Answer:
        prefix = request.query.get("prefix", [""])[0]
        after = request.query.get("continuation-token", request.query.get("start-after", [""]))[0]
        top = f"{bucket}/"
        keys = sorted(
            key
            for name in self.objects
            if name.startswith(top + prefix) and (key := name.removeprefix(top)) > after
        )
        page = keys[: self.knobs.page]
        rows = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(found.data)}</Size>"
            f"<ETag>{escape(found.etag)}</ETag>"
            f"<LastModified>{time.strftime('%Y-%m-%dT%H:%M:%S.000Z', time.gmtime(found.modified))}"
            "</LastModified></Contents>"
            for key in page
            for found in [self.objects[top + key]]
        )
        more = len(keys) > len(page)
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        body = (
            f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>"
            f"<KeyCount>{len(page)}</KeyCount>{token}{rows}</ListBucketResult>"
        )
        return Answer(200, body.encode(), {"Content-Type": "application/xml"})

    def list_azure(self, bucket: str, request: Request) -> Answer:
        top, prefix = f"{bucket}/", request.query.get("prefix", [""])[0]
        first = request.query.get("marker", request.query.get("startFrom", [""]))[0]
        keys = sorted(
            key
            for name in self.objects
            if name.startswith(top + prefix) and (key := name.removeprefix(top)) >= first
        )
        page, rest = keys[: self.knobs.page], keys[self.knobs.page :]
        rows = "".join(
            f"<Blob><Name>{escape(key)}</Name><Properties>"
            f"<Last-Modified>{formatdate(found.modified, usegmt=True)}</Last-Modified>"
            f"<Etag>{escape(found.etag)}</Etag><Content-Length>{len(found.data)}</Content-Length>"
            "<Content-Type>application/octet-stream</Content-Type></Properties></Blob>"
            for key in page
            for found in [self.objects[top + key]]
        )
        marker = f"<NextMarker>{escape(rest[0])}</NextMarker>" if rest else "<NextMarker/>"
        body = f"<EnumerationResults><Blobs>{rows}</Blobs>{marker}</EnumerationResults>"
        return Answer(200, body.encode(), {"Content-Type": "application/xml"})

    def batch_azure(self, bucket: str, request: Request) -> Answer:
        targets = re.findall(r"^DELETE (\S+) HTTP", request.body.decode(), re.MULTILINE)
        parts = []
        for number, target in enumerate(targets):
            gone = self.objects.pop(unquote(target)[1:], None)
            status = "202 Accepted" if gone else "404 The specified blob does not exist."
            parts.append(
                "--batch\r\nContent-Type: application/http\r\n"
                f"Content-ID: {number}\r\n\r\nHTTP/1.1 {status}\r\n\r\n"
            )
        kind = {"Content-Type": "multipart/mixed; boundary=batch"}
        return Answer(202, ("".join(parts) + "--batch--\r\n").encode(), kind)


def kind(request: Request) -> str:
    listing = "list-type" in request.query or request.query.get("comp") == ["list"]
    return "LIST" if listing else request.method


def get(there: Object, request: Request) -> Answer:
    size, first, last = len(there.data), 0, len(there.data)
    wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if wanted:
        start, end = wanted.groups()
        first = int(start) if start else max(0, size - int(end))
        last = min(size, int(end) + 1) if start and end else size
        if first >= size:
            return failure(416, "InvalidRange")
    headers = there.headers()
    if wanted:
        headers["Content-Range"] = f"bytes {first}-{last - 1}/{size}"
    body = memoryview(there.data)[first:last]
    if request.method == "HEAD":
        return Answer(200, b"", headers, size=len(body))
    return Answer(206 if wanted else 200, body, headers)


async def read_request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ")
    headers = {}
    for line in head[1:]:
        if line:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    parts = urlsplit(target)
    query = parse_qs(parts.query, keep_blank_values=True)
    return Request(method, unquote(parts.path), query, headers, body)


async def send(
    writer: asyncio.StreamWriter,
    request: Request,
    answer: Answer,
    *,
    cut: bool = False,
    bps: float | None = None,
) -> None:
    size = len(answer.body) if answer.size is None else answer.size
    lines = [f"HTTP/1.1 {answer.status} {STATUS[answer.status]}", f"Content-Length: {size}"]
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    body = memoryview(answer.body)
    if request.method == "HEAD":
        body = body[:0]
    if cut:
        body = body[: len(body) // 2]
    step = max(1, int(bps / 10)) if bps else max(1, len(body))
    for first in range(0, len(body), step):
        writer.write(body[first : first + step])
        await writer.drain()
        if bps:
            await asyncio.sleep(0.1)
    await writer.drain()


class ObjectServer:
    """The server as a child process: `with ObjectServer() as server: server.set(latency=0.02)`."""

    def __init__(self) -> None:
        command = [sys.executable, "-P", __file__, "--port", "0"]
        self._child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._child.stdout is not None
        self.endpoint = self._child.stdout.readline().strip()
        assert self.endpoint.startswith("http://"), "the object server did not start"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.communicate()

    @property
    def environment(self) -> dict[str, str]:
        """What a client's environment needs to find the server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }

    def set(self, **knobs: Any) -> None:
        """New knobs (others: as at the start); the counts begin again at zero."""
        self._control("knobs", asdict(Knobs(**knobs)))

    def counts(self) -> dict[str, int]:
        """Requests since `set` by method; listings are LIST."""
        found: dict[str, int] = self._control("counts", {})
        return found

    def clear(self) -> None:
        """Forget all objects."""
        self._control("clear", {})

    def put(self, path: str, data: bytes) -> None:
        """Keep an object whatever its name, which svp's own stores may refuse: bucket/key."""
        url = f"{self.endpoint}/{quote(path)}"
        request = urllib.request.Request(url, data, method="PUT")
        with urllib.request.urlopen(request, timeout=30):
            pass

    def put_many(self, objects: dict[str, str]) -> None:
        """Keep objects of text at once: bucket/key -> content."""
        self._control("objects", objects)

    def _control(self, name: str, value: object) -> Any:
        request = urllib.request.Request(
            f"{self.endpoint}{CONTROL}{quote(name)}", json.dumps(value).encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())


def point_to(monkeypatch: Any, endpoint: str) -> None:
    """Make an S3 endpoint the one of a test's environment, whatever the user's is."""
    from svp.pipeline.store import object_client

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    object_client._client.cache_clear()


async def main(port: int, latency: float) -> None:
    server = Server()
    server.knobs = Knobs(latency=latency)
    print(f"http://127.0.0.1:{await server.start(port)}", flush=True)
    parent = os.getppid()
    while os.getppid() == parent:  # ends with the process that started it
        await asyncio.sleep(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds to the first byte")
    given = parser.parse_args()
    asyncio.run(main(given.port, given.latency))
