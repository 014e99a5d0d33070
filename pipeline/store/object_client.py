"""Clients of object storage services: address, settings of the environment, faults, repetition.

Credentials come from the environment alone, by the chain of the service (for S3: AWS_* variables,
web identity, container and instance metadata). What a service answers is never shown as it is: an
answer may repeat a key or a signed address. Only status and error code are taken from it.
"""

import logging
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypeVar

from ..display import show
from ..errors import CacheError, ConfigError, MissingPackageError, SvpError
from .protocol import NoBucketError, missing

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

# Services, and the variables that name an account and its secret.
SCHEMES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
# Variables for a bucket that anybody may read.
PUBLIC = {
    "s3": "AWS_SKIP_SIGNATURE",
    "gs": "GOOGLE_SKIP_SIGNATURE",
    "az": "AZURE_SKIP_SIGNATURE",
}
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_STATUS = re.compile(r"non-2xx status code: (\d{3})\b")
_CODE = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
_REGION = {
    "PermanentRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
}
# Seconds: a machine of a cloud answers at once, where there is none nobody ever does.
LOOKUP_PATIENCE = 15.0
# Places that are asked for credentials where the environment has none.
_METADATA = ("169.254.169.254", "169.254.170.2", "metadata.google.internal")
# What the text of a failed connection tells of its cause; the first that fits.
_CAUSES = (
    (r"timed out|TimedOut|operation timeout", "no answer in time"),
    (r"certificate|InvalidCertificate|UnknownIssuer", "its certificate is not trusted"),
    (r"dns error|failed to lookup address", "its host name is not known"),
    (r"Connection refused|ConnectError|kind: Connect", "no connection"),
    (r"Decode|IncompleteMessage|UnexpectedEof|closed|reset|Body", "the connection was cut"),
)

UNKNOWN = "unknown cause"
# A request that fails for so long is told in the log: the program looks as if it hung.
QUIET_SECONDS = 5.0

_T = TypeVar("_T")
_log = logging.getLogger("svp")


@dataclass(frozen=True)
class RetryPolicy:
    """Bounds on the repetition of requests, in seconds.

    patience    a request is repeated while less time has passed since its first attempt
    first_wait  before the first repetition, then twice as long each time, at most `longest_wait`;
                each wait is drawn from 0.5 to 1 times that
    stall       an attempt without a byte for so long is ended and repeated
    """

    patience: float = 120.0
    first_wait: float = 0.1
    longest_wait: float = 10.0
    stall: float = 30.0


@dataclass(frozen=True)
class Fault:
    """A failed request: its kind, its cause in a few words, and the error code of the service.

    missing  no such object              taken    create: it exists
    changed  not the expected version    range    the object ends before the range starts
    passing  worth a repetition          lasting  not worth one
    """

    kind: Literal["missing", "taken", "changed", "range", "passing", "lasting"]
    cause: str
    code: str = ""
    lookup: bool = False  # it was a request for credentials
    unsupported: bool = False  # by the service, or by the client for it

    def repeat(self, spent: float, policy: RetryPolicy) -> bool:
        """Whether the request is worth another attempt `spent` seconds after its first."""
        patience = min(policy.patience, LOOKUP_PATIENCE) if self.lookup else policy.patience
        return self.kind == "passing" and spent < patience

    def error(self, where: str) -> SvpError:
        """The error for people."""
        place = show(where, 300)
        if self.code == "NoSuchBucket":
            return NoBucketError(f"{place}: no such bucket")
        if self.kind == "missing":
            return missing(where)
        if self.lookup:
            scheme = where.partition(":")[0]
            return CacheError(
                f"{place}: no credentials in the environment: set {SCHEMES[scheme]}, "
                f"or {PUBLIC[scheme]} to true for a public bucket"
            )
        if self.code in _EXPIRED:
            return CacheError(
                f"{place}: the credentials have expired ({self.code}): renew them in the "
                "environment and run the same command again"
            )
        if self.code in _REGION:
            return CacheError(f"{place}: the bucket is in another region: set AWS_REGION to it")
        if self.cause.startswith(("HTTP 401", "HTTP 403")):
            return CacheError(
                f"{place}: access refused ({self.cause}): check the credentials in the "
                "environment and their rights on the bucket"
            )
        return CacheError(f"{place}: the service failed ({self.cause}): run the same command again")


def request_errors() -> tuple[type[Exception], ...]:
    """Exception classes of obstore."""
    from obstore.exceptions import BaseError

    return BaseError, OSError, ValueError


def read_fault(error: Exception) -> Fault:
    """The `Fault` that an exception of obstore stands for."""
    from obstore import exceptions

    text = str(error)
    status, code = _first(_STATUS, text), _first(_CODE, text)
    cause = f"HTTP {status} {code}".rstrip() if status else _cause(text)
    if any(place in text for place in _METADATA):
        return Fault("passing", cause, code, lookup=True)
    if code == "ConditionalRequestConflict":  # of two writers at once S3 refuses both
        return Fault("passing", cause, code)
    if isinstance(error, exceptions.AlreadyExistsError):
        return Fault("taken", cause, code)
    if isinstance(error, exceptions.PreconditionError):
        return Fault("changed", cause, code)
    if isinstance(error, FileNotFoundError) or status == "404":
        return Fault("missing", cause, code)
    if status == "416" or "NotPartial" in text:
        return Fault("range", cause, code)
    if status == "501" or isinstance(error, exceptions.NotSupportedError):
        return Fault("lasting", cause, code, unsupported=True)
    passing = int(status) in _PASSING if status else cause != UNKNOWN or "HTTP error" in text
    return Fault("passing" if passing else "lasting", cause, code)


def split_address(scheme: str, rest: str) -> tuple[str, str]:
    """(address of the bucket, prefix) of `<scheme>://<rest>`.

    Raises ConfigError, without the text where it may hold credentials.
    """
    bucket, _, prefix = rest.rstrip("/").partition("/")
    if "@" in bucket or ":" in bucket or "?" in rest:
        raise ConfigError(
            f"an address of {scheme}:// holds more than a bucket and a prefix: credentials, "
            "endpoint and region are read from the environment"
        )
    if not _BUCKET.fullmatch(bucket):
        raise ConfigError(
            f"{show(f'{scheme}://{rest}', 300)}: {show(bucket) or 'nothing'} is no bucket name: "
            f"give {scheme}://bucket/prefix"
        )
    return f"{scheme}://{bucket}", prefix


_pid: int | None = None


_made = [0]  # requests of this process


def note_request() -> None:
    """Count a request that is about to be made."""
    _made[0] += 1


def requests_made() -> int:
    """Requests that this process has made to object stores, repeated ones among them."""
    return _made[0]


def client(address: str, stall: float) -> "ObjectStore":
    """The client of a bucket, one for all threads of this process.

    Raises MissingPackageError without obstore, ConfigError if the environment's settings are wrong,
    CacheError in a process that was forked from one that used a client: its requests would wait
    without end for threads that the fork did not copy.
    """
    global _pid
    if _pid is None:
        _pid = os.getpid()
    elif _pid != os.getpid():
        raise CacheError(
            f"{show(address)}: object storage was used before this process was forked from process "
            f"{_pid}: start processes by spawn or forkserver, not by fork"
        )
    return _client(address, stall)


@lru_cache(maxsize=64)
def _client(address: str, stall: float) -> "ObjectStore":
    try:
        from obstore.store import AzureStore, GCSStore, S3Store
    except ImportError:
        raise MissingPackageError("obstore", "cloud", "object storage") from None
    scheme, _, bucket = address.partition("://")
    endpoints = {
        "s3": os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
        "az": os.environ.get("AZURE_STORAGE_ENDPOINT"),
    }
    endpoint = endpoints.get(scheme) or ""
    # No limit on a whole request: a large file over a slow line takes its time.
    options: ClientConfig = {
        "connect_timeout": f"{max(1, round(min(10, stall)))}s",
        "read_timeout": f"{round(stall * 1000)}ms",
        "timeout": "1h",
        # Only the user's own settings name a server that has no TLS.
        "allow_http": scheme == "gs" or endpoint.startswith("http://"),
    }
    retry: RetryConfig = {"max_retries": 0}  # `RetryPolicy` repeats, with cut bodies and creates
    try:
        if scheme == "gs":
            return GCSStore(bucket, client_options=options, retry_config=retry)
        if scheme == "az":
            return AzureStore(bucket, client_options=options, retry_config=retry)
        if endpoint:
            return S3Store(bucket, endpoint=endpoint, client_options=options, retry_config=retry)
        return S3Store(bucket, client_options=options, retry_config=retry)
    except request_errors() as error:
        raise ConfigError(
            f"{show(address)}: the settings of the environment are refused "
            f"({type(error).__name__}): check {SCHEMES[scheme]} and what else it sets for the service"
        ) from None


class Stopped(Exception):
    """A request that failed for good, or in a way that the caller decides about."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.cause)
        self.fault = fault


def repeated(
    address: str, policy: RetryPolicy, call: Callable[["ObjectStore"], _T], where: str
) -> _T:
    """`call` with the client of a bucket, repeated while it may still succeed. Raises Stopped.

    where  the object, for the log
    """
    started, wait, told = time.monotonic(), policy.first_wait, False
    while True:
        try:
            note_request()
            return call(client(address, policy.stall))
        except SvpError:
            raise
        except request_errors() as error:
            fault = read_fault(error)
        spent = time.monotonic() - started
        if not fault.repeat(spent, policy):
            raise Stopped(fault)
        if spent > QUIET_SECONDS and not told:
            told = True
            _log.warning(
                "%s: %s: repeated for up to %.0f s", show(where, 300), fault.cause, policy.patience
            )
        time.sleep(wait * random.uniform(0.5, 1))
        wait = min(2 * wait, policy.longest_wait)


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1] if found else ""


def _cause(text: str) -> str:
    return next((cause for words, cause in _CAUSES if re.search(words, text)), UNKNOWN)
