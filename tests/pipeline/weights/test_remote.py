"""Weights at an address: fetched once per machine, whole, by version."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.object_server import ObjectServer
from svp.pipeline.errors import CacheError, ConfigError, MissingError
from svp.pipeline.store import local_copy, open_store, protocol
from svp.pipeline.weights import remote
from svp.pipeline.weights.locate import given_weights

FLAG = "--sam-weights"
DATA = bytes(range(256)) * 500


@pytest.fixture
def bucket(s3: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectServer:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(protocol, "PIECE", 10_000)
    open_store("s3://weights/a").create("sam.pth", [DATA])
    return s3


def test_a_file_is_fetched_once_and_whole(
    bucket: ObjectServer, logged: pytest.LogCaptureFixture
) -> None:
    bucket.set()
    place = given_weights("s3://weights/a/sam.pth", FLAG)
    assert place.name == "sam.pth" and place.read_bytes() == DATA
    assert "fetching s3://weights/a/sam.pth (128.0 kB) to " in logged.text
    assert bucket.counts() == {"HEAD": 2, "GET": 13}
    bucket.set()
    for address in ("s3://weights/a/sam.pth", Path("s3://weights/a/sam.pth")):
        assert given_weights(address, FLAG) == place
    assert bucket.counts() == {"HEAD": 2}
    assert sorted(path.name for path in place.parent.iterdir()) == ["lock", "sam.pth"]


def test_many_processes_of_a_machine_fetch_once(bucket: ObjectServer) -> None:
    bucket.set(latency=0.01)
    with ThreadPoolExecutor(6) as pool:  # each opens the lock file on its own, as processes do
        places = set(pool.map(lambda _: given_weights("s3://weights/a/sam.pth", FLAG), range(6)))
    assert len(places) == 1 and places.pop().read_bytes() == DATA
    assert bucket.counts()["GET"] == 13


def test_a_new_version_is_fetched_again(bucket: ObjectServer) -> None:
    old = given_weights("s3://weights/a/sam.pth", FLAG)
    open_store("s3://weights/a").replace("sam.pth", b"new" * 100)
    new = given_weights("s3://weights/a/sam.pth", FLAG)
    assert new != old and new.read_bytes() == b"new" * 100 and old.read_bytes() == DATA


def test_a_model_folder_is_fetched_without_what_is_not_read(bucket: ObjectServer) -> None:
    store = open_store("s3://weights/dinov2")
    files = {"config.json": b"{}", "model.safetensors": DATA}
    for name, data in files.items():
        store.create(name, [data])
    store.create("evil.py", [b"import os"])
    store.create("onnx/model.json", [b"{}"])
    place = given_weights("s3://weights/dinov2/", "--encoder-weights")
    assert place.name == "dinov2"
    assert {path.name: path.read_bytes() for path in place.iterdir()} == files


def test_faults_leave_nothing_and_a_kill_is_cleared(
    bucket: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise CacheError("the service failed")

    with monkeypatch.context() as patch:
        patch.setattr(local_copy, "write_all", fail)
        with pytest.raises(CacheError, match="the service failed"):
            given_weights("s3://weights/a/sam.pth", FLAG)
    (left,) = remote.copies_folder().glob("*/*.partial")
    (left.parent / "sam.pth.1.partial").mkdir()
    assert given_weights("s3://weights/a/sam.pth", FLAG).read_bytes() == DATA
    assert list(remote.copies_folder().glob("*/*.partial")) == []


def test_a_file_that_is_replaced_meanwhile_is_refused(
    bucket: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = local_copy.write_all

    def replace(fd: int, parts: object) -> None:
        whole(fd, parts)  # type: ignore[arg-type]
        open_store("s3://weights/a").replace("sam.pth", DATA[::-1])

    monkeypatch.setattr(local_copy, "write_all", replace)
    with pytest.raises(CacheError, match="s3://weights/a/sam.pth: was replaced while"):
        given_weights("s3://weights/a/sam.pth", FLAG)


@pytest.mark.parametrize("address", ["s3://weights/a/none.pth", "s3://weights/none/x"])
def test_what_is_not_there_names_option_and_address(bucket: ObjectServer, address: str) -> None:
    with pytest.raises(MissingError, match=f"{FLAG} {address}: no such weight file or folder"):
        given_weights(address, FLAG)


@pytest.mark.parametrize(
    "address",
    ["s3://weights/a/sam.pth?X-Amz-Signature=word", "az://c/sam.pth?sig=word", "s3://weights/x?word/",
     "s3://key:word@weights/a/sam.pth", "s3://key:word@weights", "memory://key:word@x/sam.pth",
     "ftp://key:word@host/sam.pth", "s3://weights?word"],
)  # fmt: skip
def test_credentials_in_an_address_are_never_shown(
    bucket: ObjectServer, address: str, logged: pytest.LogCaptureFixture
) -> None:
    bucket.set()
    with pytest.raises((ConfigError, MissingError)) as told:
        given_weights(address, FLAG)
    assert "word" not in str(told.value) + logged.text
    assert bucket.counts() == {}, "nothing is asked for"


def test_without_a_home_the_remedy_is_named(
    bucket: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "user_cache", lambda: None)
    with pytest.raises(MissingError, match="set XDG_CACHE_HOME"):
        given_weights("s3://weights/a/sam.pth", FLAG)


def test_the_digest_of_the_copy_is_that_of_the_object(bucket: ObjectServer) -> None:
    from svp.pipeline.weights.load import weights_digest

    place = given_weights("s3://weights/a/sam.pth", FLAG)
    assert weights_digest(place) == hashlib.sha256(DATA).hexdigest()
