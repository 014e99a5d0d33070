"""Store in a bucket: faults of the service, credentials, forks, the number of requests."""

import logging
import os
import pickle
import subprocess
import sys
import time
import traceback

import pytest

from support.object_server import KEY, SECRET, ObjectServer
from svp.pipeline.errors import CacheError, ConfigError, MissingError, MissingPackageError, SvpError
from svp.pipeline.store import (
    NoBucketError,
    OtherBytesError,
    Read,
    RetryPolicy,
    Store,
    in_flight,
    open_store,
)
from svp.pipeline.store.in_flight import HEDGE_BURST, HEDGE_LEAST, HEDGE_UNKNOWN, Hedging
from svp.pipeline.store.object_client import read_fault

QUICK = RetryPolicy(patience=20.0, first_wait=0.01, longest_wait=0.05, stall=0.5)
SHORT = RetryPolicy(patience=0.2, first_wait=0.01, longest_wait=0.05, stall=1.0)


@pytest.fixture
def store(s3: ObjectServer) -> Store:
    return open_store("s3://tests/cache", QUICK)


def rows(store: Store, count: int, size: int = 50_000) -> None:
    """Read `count` rows of `size` bytes of key `shard`, and compare them."""
    buffers = [bytearray(size) for _ in range(count)]
    store.read_many([Read("shard", i * size, [memoryview(b)]) for i, b in enumerate(buffers)])
    for i, buffer in enumerate(buffers):
        assert bytes(buffer) == bytes([i]) * size


def fill(store: Store, count: int, size: int = 50_000) -> None:
    store.create("shard", [bytes([i]) * size for i in range(count)], who="node1")


@pytest.mark.parametrize(
    "knobs",
    [{"error_rate": 0.3}, {"error_rate": 0.3, "error": 500}, {"error_rate": 0.3, "error": 429},
     {"cut_rate": 0.3}, {"lost_rate": 0.5}, {"conflict_rate": 0.5}, {"slow_rate": 0.1},
     {"hang_rate": 0.1}],
    ids=lambda knobs: " ".join(map(str, knobs.items())),
)  # fmt: skip
def test_nothing_is_lost_by_passing_faults(
    store: Store, s3: ObjectServer, knobs: dict[str, float]
) -> None:
    s3.set(**knobs, seed=3)
    fill(store, 20)
    rows(store, 20)
    for i in range(10):
        assert store.create(f"a/{i}", [bytes([i])], who="node1").bytes == 1
        assert not store.create(f"a/{i}", [bytes([i])]).made
        with pytest.raises(OtherBytesError):
            store.create(f"a/{i}", [b"other"])
    tag = store.replace("plan", b"one")
    assert store.read_tagged("plan", 3) == (b"one", store.replace("plan", b"one", tag))
    assert sorted(store.sizes("a")) == [(f"a/{i}", 1) for i in range(10)]
    assert store.tail("shard", 3)[1] == 20 * 50_000
    assert store.delete("plan")
    s3.set()
    assert len(dict(store.sizes())) == 11


@pytest.mark.parametrize("data", [b"", b"two"])
def test_a_replacement_whose_answer_was_lost_is_one(
    store: Store, s3: ObjectServer, data: bytes
) -> None:
    tag = store.replace("plan", b"one")
    s3.set(lost_rate=1.0)
    impatient = open_store("s3://tests/cache", SHORT)
    with pytest.raises(CacheError, match="the connection was cut"):
        impatient.create("other", [b"1"])  # never an answer, though it is there
    s3.set(lost_rate=0.5, seed=1)  # the first answer is lost, the second says 412
    new = store.replace("plan", data, tag)
    assert store.tail("plan", 10) == (data, len(data)) and store.stat("plan").tag == new


@pytest.mark.timeout(60)
def test_a_request_that_hangs_is_asked_again(s3: ObjectServer) -> None:
    """By hedging alone: neither the server nor the client ends the first request in time."""
    # A bucket of its own: other tests have spent what may be asked twice.
    store = open_store("s3://hedged/cache", RetryPolicy(stall=600))
    fill(store, 100)
    s3.set(hang_every=23, hang=600)
    rows(store, 100)
    assert s3.counts()["GET"] > 100


def test_hedging_stays_within_its_share() -> None:
    hedging = Hedging()
    assert hedging.delay == HEDGE_UNKNOWN
    assert [hedging.take() for _ in range(int(HEDGE_BURST) + 1)] == [True] * 8 + [False]
    for _ in range(16):
        hedging.record(0.1)
    assert hedging.delay == pytest.approx(0.4)
    assert not hedging.take()
    for _ in range(4):
        hedging.record(0.001)
    assert hedging.take() and not hedging.take()  # one for twenty
    for _ in range(200):
        hedging.record(0.001)
    assert hedging.delay == HEDGE_LEAST


@pytest.mark.parametrize(
    ("knobs", "words"),
    [({"error_rate": 1.0}, "the service failed (HTTP 503 SlowDown): run the same command again"),
     ({"hang_rate": 1.0}, "the service failed (no answer in time)"),
     ({"cut_rate": 1.0}, "the service failed (the connection was cut)")],
    ids=["5xx", "hang", "cut"],
)  # fmt: skip
def test_a_service_that_stays_away_is_one_clear_error(
    s3: ObjectServer, knobs: dict[str, float], words: str
) -> None:
    store = open_store("s3://tests/cache", SHORT)
    fill(store, 4)
    s3.set(**knobs)
    for call in (lambda: rows(store, 4), lambda: store.read("shard", 10**6)):
        with pytest.raises(CacheError) as found:
            call()
        assert str(found.value).startswith("s3://tests/cache/shard: ") and words in str(found.value)


def test_a_server_that_is_not_there(s3: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from svp.pipeline.store import object_client

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    object_client._client.cache_clear()
    store = open_store("s3://tests/cache", SHORT)
    for call in (lambda: rows(store, 1), lambda: store.create("a", [b"1"])):
        with pytest.raises(CacheError, match="the service failed .no connection."):
            call()


@pytest.mark.parametrize(
    ("code", "words"),
    [("ExpiredToken", "the credentials have expired .ExpiredToken.: renew them"),
     ("AccessDenied", "access refused .HTTP 403 AccessDenied.: check the credentials"),
     ("AuthorizationHeaderMalformed", "the bucket is in another region: set AWS_REGION"),
     ("InvalidRequest", "the service failed .HTTP 400 InvalidRequest.")],
)  # fmt: skip
def test_what_does_not_pass_ends_at_once_and_shows_no_credentials(
    store: Store, s3: ObjectServer, caplog: pytest.LogCaptureFixture, code: str, words: str
) -> None:
    caplog.set_level(logging.DEBUG)
    fill(store, 1)
    s3.set(refuse=code)
    calls = [
        lambda: rows(store, 1), lambda: store.read("shard", 10), lambda: store.tail("shard", 3),
        lambda: store.create("a", [b"1"]), lambda: store.replace("a", b"1"),
        lambda: store.delete("shard"), lambda: store.stat("shard"), lambda: list(store.sizes()),
        store.require_create,
    ]  # fmt: skip
    for call in calls:
        s3.set(refuse=code)
        with pytest.raises(CacheError, match=words) as found:
            call()
        assert sum(s3.counts().values()) <= 2  # HEAD, and the GET that tells why
        shown = "".join(traceback.format_exception(found.value)) + repr(store) + caplog.text
        for secret in (KEY, SECRET, "Signature", "refused to"):
            assert secret not in shown


def test_a_bucket_that_is_not_there(s3: ObjectServer) -> None:
    store = open_store("s3://absent/x", QUICK)
    for call in (lambda: store.read("a", 1), lambda: store.create("a", [b"1"]),
                 lambda: store.delete("a"), lambda: list(store.sizes()), lambda: rows(store, 1)):  # fmt: skip
        with pytest.raises(NoBucketError, match="no such bucket"):
            call()


@pytest.mark.parametrize("knobs", [{"ignore_create": True}, {"no_create": True}], ids=str)
def test_a_service_without_create_is_refused(
    store: Store, s3: ObjectServer, knobs: dict[str, bool]
) -> None:
    s3.set(**knobs)
    with pytest.raises(CacheError, match="the service has no create-only writes .*: use a service"):
        store.require_create()
    assert list(store.sizes()) == []


def test_objects_of_other_programs_are_compared_by_their_bytes(
    store: Store, s3: ObjectServer
) -> None:
    s3.set(drop_metadata=True)
    assert store.create("a", [b"one"], who="node1").made
    assert not store.create("a", [b"one"]).made
    with pytest.raises(OtherBytesError, match="by a writer that left no name, now .* by node2"):
        store.create("a", [b"two"], who="node2")
    assert store.create("empty", []).made and not store.create("empty", []).made


def test_the_number_of_requests(store: Store, s3: ObjectServer) -> None:
    """What a price is computed from."""

    def count(call: object) -> dict[str, int]:
        s3.set()
        assert callable(call)
        call()
        return s3.counts()

    assert count(lambda: fill(store, 20)) == {"PUT": 1}
    assert count(lambda: store.create("shard", [bytes([i]) * 50_000 for i in range(20)])) == {
        "PUT": 1, "HEAD": 1,
    }  # fmt: skip
    assert count(lambda: rows(store, 20)) == {"GET": 20}
    assert count(lambda: store.tail("shard", 1028)) == {"GET": 1}
    assert count(lambda: store.read("shard", 10**6)) == {"GET": 1}
    assert count(lambda: store.stat("shard")) == {"HEAD": 1}
    assert count(lambda: store.digest("shard")) == {"HEAD": 1, "GET": 1}
    with pytest.raises(MissingError):
        count(lambda: store.stat("absent"))
    assert s3.counts() == {"HEAD": 1, "GET": 1}
    assert count(lambda: store.delete("shard")) == {"HEAD": 1, "POST": 1}
    for i in range(2500):
        store.create(f"c/{i}", [b"1"])
    assert count(lambda: list(store.sizes("c"))) == {"LIST": 3}


def test_a_listing_survives_faults_between_its_pages(store: Store, s3: ObjectServer) -> None:
    for i in range(300):
        store.create(f"c/{i}", [bytes(i)])
    s3.set(page=50, error_rate=0.4, seed=2)
    found = list(store.sizes("c"))
    assert sorted(found) == sorted((f"c/{i}", i) for i in range(300))


FORK = """
import os, sys
from svp.pipeline.errors import CacheError
from svp.pipeline.store import Read, open_store
store = open_store("s3://tests/fork")
store.create("a", [b"1"])
store.read_many([Read("a", 0, [memoryview(bytearray(1))])])
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
bad = 0
calls = [lambda: store.read("a", 1), lambda: open_store("s3://tests/other").create("b", [b"1"]),
         lambda: store.read_many([Read("a", 0, [memoryview(bytearray(1))])])]
for call in calls:
    try:
        call()
        bad += 1
    except CacheError as error:
        bad += "start processes by spawn or forkserver" not in str(error)
os._exit(7 if not bad else 8)
"""


@pytest.mark.timeout(60)
def test_a_forked_process_is_told_at_once(s3: ObjectServer) -> None:
    assert subprocess.run([sys.executable, "-c", FORK], check=False).returncode == 7


def test_a_pickled_store_works_in_another_process(store: Store, s3: ObjectServer) -> None:
    store.create("a", [b"1"])
    code = "import pickle, sys; print(pickle.loads(bytes.fromhex(sys.argv[1])).read('a', 1))"
    words = [sys.executable, "-c", code, pickle.dumps(store).hex()]
    assert subprocess.check_output(words, text=True, env=os.environ.copy()) == "b'1'\n"
    assert SECRET.encode() not in pickle.dumps(store)


@pytest.mark.parametrize(
    "address", ["s3://AKID:wJalr@bucket/x", "s3://bucket/x?sig=wJalr", "az://u:wJalr@c", "gs://wJalr@b"]
)  # fmt: skip
def test_credentials_in_an_address_are_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(ConfigError, match="are read from the environment") as found:
        open_store(address)
    assert "wJalr" not in str(found.value)


@pytest.mark.parametrize(
    "address", ["s3://", "s3:///x", "s3://-b/x", "s3://b_/../x", "gs://b/a//b"]
)
def test_addresses_that_name_nothing_are_refused(address: str) -> None:
    with pytest.raises(SvpError):
        open_store(address).stat("x")


@pytest.mark.parametrize("address", ["http://u:pw@host/x", "ftp://host/x", "hdfs://a/b"])
def test_other_addresses_name_what_there_is(address: str) -> None:
    with pytest.raises(
        ConfigError, match=r"is no store: give a folder, s3://bucket/prefix, "
    ) as found:
        open_store(address)
    assert "pw" not in str(found.value)


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_opening_touches_nothing(scheme: str) -> None:
    assert open_store(f"{scheme}://bucket/a/b").where("c") == f"{scheme}://bucket/a/b/c"
    assert open_store(f"{scheme}:/bucket").where("c") == f"{scheme}://bucket/c"  # from a Path


def test_without_obstore_the_extra_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from svp.pipeline.store import object_client

    object_client._client.cache_clear()
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'svp\[cloud\]'"):
        store.stat("a")


def test_without_credentials_the_search_for_them_is_short() -> None:
    GenericError = pytest.importorskip("obstore.exceptions", reason="needs svp[cloud]").GenericError

    fault = read_fault(GenericError("Error performing PUT http://169.254.169.254/latest/api/token"))
    assert fault.repeat(14, RetryPolicy()) and not fault.repeat(16, RetryPolicy())
    for scheme, account in (("s3", "AWS"), ("gs", "GOOGLE"), ("az", "AZURE")):
        told = str(fault.error(f"{scheme}://b/x"))
        assert told.startswith(f"{scheme}://b/x: no credentials in the environment: set {account}_")
        assert told.endswith(f"or {account}_SKIP_SIGNATURE to true for a public bucket")


def test_the_end_of_a_process_waits_for_the_threads_of_the_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that asks an interpreter that has ended for its lock aborts the process (SIGABRT)."""
    told: list[object] = []
    monkeypatch.setattr(in_flight.atexit, "register", lambda *call: told.append(call))
    in_flight._Loop()
    assert told == [(time.sleep, in_flight.LET_GO)] and in_flight.LET_GO > 0
