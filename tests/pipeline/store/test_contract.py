"""Every store keeps the same promises."""

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import xxhash

from svp.pipeline.errors import CacheError, DataError, MissingError
from svp.pipeline.store import (
    ChangedError,
    OtherBytesError,
    Read,
    Store,
    open_store,
    pieces,
    protocol,
)

DATA = bytes(range(256)) * 40
ODD = ["a b", "ü/é", "x#1", "%41", "a+b", "y?z", "a=b&c", "it's", "0/c/7/0/0", ".hidden", "a/~b"]


def read(store: Store, key: str, offset: int, *lengths: int) -> bytes:
    views = [memoryview(bytearray(length)) for length in lengths]
    store.read_many([Read(key, offset, views)])
    return b"".join(views)


def test_what_is_created_is_read_whole_and_in_parts(store: Store) -> None:
    made = store.create("dino/c/0/0", [DATA[:100], memoryview(DATA)[100:]])
    assert (made.made, made.bytes, made.xxh3) == (True, len(DATA), xxhash.xxh3_64_hexdigest(DATA))
    assert store.read("dino/c/0/0", len(DATA)) == DATA
    assert store.tail("dino/c/0/0", 7) == (DATA[-7:], len(DATA))
    assert store.tail("dino/c/0/0", 10**6) == (DATA, len(DATA))
    assert store.stat("dino/c/0/0").bytes == len(DATA)
    assert read(store, "dino/c/0/0", 300, 20, 4) == DATA[300:324]
    assert read(store, "dino/c/0/0", len(DATA) - 1, 1) == DATA[-1:]


def test_a_digest_is_of_every_byte(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "PIECE", 1000)
    for name, data in (("a", DATA), ("b", DATA[:-1]), ("empty", b"")):
        store.create(name, [data])
        assert store.digest(name) == (len(data), xxhash.xxh3_64_hexdigest(data))
        if data:
            assert b"".join(pieces(store, name, len(data))) == data
    with pytest.raises(MissingError):
        store.digest("absent")


def test_many_ranges_of_many_files_go_where_they_belong(store: Store) -> None:
    for name in "abc":
        store.create(name, [name.encode() * 1000, DATA])
    buffers = [(name, i, bytearray(10), bytearray(3)) for i in range(1000, 1100) for name in "cab"]
    store.read_many([Read(n, i, [memoryview(a), memoryview(b)]) for n, i, a, b in buffers])
    for _, i, first, second in buffers:
        assert bytes(first + second) == DATA[i - 1000 : i - 987]
    store.read_many([])


def test_a_range_beyond_the_end_is_an_error_that_names_the_file(store: Store) -> None:
    store.create("a/b", [b"12345"])
    for offset, length in ((3, 4), (5, 1), (9, 2)):
        with pytest.raises(CacheError, match=r"a/b: cut short: .* bytes at"):
            read(store, "a/b", offset, length)


def test_what_is_not_there_is_missing(store: Store) -> None:
    store.create("a/b", [b"1"])
    calls: list[Callable[[str], object]] = [
        store.stat,
        lambda key: store.read(key, 10),
        lambda key: store.tail(key, 10),
        lambda key: read(store, key, 0, 1),
    ]
    for key in ("a/c", "a", "a/b/c", "x/y"):
        for call in calls:
            with pytest.raises(MissingError, match=f"{key}: no such file"):
                call(key)
        assert not store.delete(key)
    assert store.read("a/b", 1) == b"1"


def test_a_whole_file_is_read_within_its_limit_only(store: Store) -> None:
    store.create("a", [b"12345"])
    store.create("empty", [])
    assert store.read("a", 5) == b"12345"
    with pytest.raises(CacheError, match=r"a: 5 bytes, expected 1 to 4"):
        store.read("a", 4)
    with pytest.raises(CacheError, match=r"empty: 0 bytes, expected 1 to 4"):
        store.read("empty", 4)
    assert store.tail("empty", 4) == (b"", 0)
    assert store.stat("empty").bytes == 0


def test_equal_bytes_agree_and_other_bytes_are_refused_by_name(store: Store) -> None:
    assert store.create("s/0", [b"one"], who="node1, process 7, A100").made
    again = store.create("s/0", [b"o", b"ne"], who="node2, process 8, H200")
    assert (again.made, again.bytes, again.xxh3) == (False, 3, xxhash.xxh3_64_hexdigest(b"one"))
    for other in (b"two", b"one+", b""):
        with pytest.raises(OtherBytesError) as found:
            store.create("s/0", [other], who="node2, process 8, H200")
        assert found.value.maker == "node1, process 7, A100"
        assert found.value.who == "node2, process 8, H200"
        assert found.value.theirs == xxhash.xxh3_64_hexdigest(b"one")
        assert found.value.ours == xxhash.xxh3_64_hexdigest(other)
        for word in ("s/0", "node1", "A100", "node2", "H200", found.value.ours):
            assert word in str(found.value)
        copy = pickle.loads(pickle.dumps(found.value))
        assert str(copy) == str(found.value)
    assert store.read("s/0", 10) == b"one"


def test_a_maker_is_any_text(store: Store) -> None:
    who = "nöde \x1b[31m, 5 % of\nit"
    store.create("a", [b"1"], who=who)
    store.create("b", [b"1"])
    store.create("c", [b"1"], who="x" * 5000)
    assert store.stat("a").maker == who
    assert store.stat("b").maker == ""
    with pytest.raises(OtherBytesError) as found:
        store.create("a", [b"2"])
    assert "\x1b" not in str(found.value)


def test_of_many_writers_one_makes_the_file(store: Store) -> None:
    def write(i: int) -> str:
        try:
            return "made" if store.create("a/b/c", [b"%d" % (i % 2)], who=f"{i}").made else "same"
        except OtherBytesError:
            return "other"

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(write, range(24)))
    winner = int(store.read("a/b/c", 10))
    assert outcomes.count("made") == 1
    assert [o == "other" for o in outcomes] == [i % 2 != winner for i in range(24)]


def test_a_replacement_wants_the_version_that_was_read(store: Store) -> None:
    first = store.replace("plan", b"one")
    assert store.read_tagged("plan", 10) == (b"one", first)
    assert store.stat("plan").tag == first
    second = store.replace("plan", b"two!", first)
    assert second != first and store.read_tagged("plan", 10) == (b"two!", second)
    for tag in (first, "unknown"):
        with pytest.raises(ChangedError, match="plan: another process has changed it"):
            store.replace("plan", b"three", tag)
    with pytest.raises(ChangedError):
        store.replace("absent", b"three", first)
    third = store.replace("plan", b"two!")
    assert store.read_tagged("plan", 10) == (b"two!", third)


def test_a_deletion_wants_the_version_that_was_read(store: Store) -> None:
    first = store.replace("a/b", b"one")
    second = store.replace("a/b", b"other")
    with pytest.raises(ChangedError, match="a/b"):
        store.delete("a/b", first)
    assert store.read("a/b", 10) == b"other"
    assert store.delete("a/b", second)
    assert not store.delete("a/b", second)
    assert store.create("a/b", [b"new"]).made
    assert store.delete("a/b")
    assert not store.delete("a/b")
    assert list(store.sizes()) == []


def test_sizes_lists_what_lies_below_a_prefix(store: Store) -> None:
    keys = ["a/1", "a/b/2", "ab/3", "a.4", "z"]
    for i, key in enumerate(keys):
        store.create(key, [bytes(i)])
    assert sorted(store.sizes()) == sorted((key, i) for i, key in enumerate(keys))
    assert sorted(store.sizes("a")) == [("a/1", 0), ("a/b/2", 1)]
    assert list(store.sizes("a/b")) == [("a/b/2", 1)]
    for empty in ("z", "absent", "a/1"):
        assert list(store.sizes(empty)) == []
    below = store.sub("a")
    assert sorted(below.sizes()) == [("1", 0), ("b/2", 1)]
    assert list(below.sizes("b")) == [("b/2", 1)]


def test_stats_tell_one_version_from_another(store: Store) -> None:
    store.create("a/1", [b"one"])
    store.create("a/2", [b"two"])
    first = dict(store.stats("a"))
    assert {key: found.bytes for key, found in first.items()} == {"a/1": 3, "a/2": 3}
    store.replace("a/1", b"eno")
    second = dict(store.stats("a"))
    assert second["a/1"].tag != first["a/1"].tag and second["a/2"] == first["a/2"]


def test_a_sub_store_is_a_view(store: Store) -> None:
    below = store.sub("features").sub("dino")
    below.create("c/0", [b"row"])
    assert store.read("features/dino/c/0", 10) == b"row"
    assert below.where("c/0") == store.where("features/dino/c/0")
    assert below.where("c/0").startswith(store.where())


@pytest.mark.parametrize("key", ODD)
def test_odd_names_are_names(store: Store, key: str) -> None:
    store.create(key, [b"1"])
    assert store.read(key, 1) == b"1"
    assert list(store.sizes()) == [(key, 1)]
    assert store.delete(key)


@pytest.mark.parametrize(
    "key",
    ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/.", "a/", "~/x", "c:x", "a\\b",
     "a\nb", "a\0b", "\ud800", ".partial/x", "x.partial", "x.partial/y", "ä" * 600],
)  # fmt: skip
def test_unsafe_keys_are_refused_everywhere(store: Store, key: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.stat(key),
        lambda: store.read(key, 1),
        lambda: store.tail(key, 1),
        lambda: read(store, key, 0, 1),
        lambda: store.create(key, [b"1"]),
        lambda: store.replace(key, b"1"),
        lambda: store.delete(key),
        lambda: store.sub(key),
    ]
    for call in calls:
        with pytest.raises(DataError, match="is refused: it"):
            call()
    assert list(store.sizes()) == []


def test_a_store_can_be_pickled(store: Store) -> None:
    store.create("a", [b"1"])
    copy = pickle.loads(pickle.dumps(store.sub("b")))
    copy.create("c", [b"2"])
    assert store.read("b/c", 1) == b"2"


def test_the_probe_leaves_nothing(store: Store) -> None:
    store.require_create()
    assert list(store.sizes()) == []
    assert store.tidy() == 0


def test_an_address_names_its_store(place: str) -> None:
    for form in (place, place + "/"):
        assert open_store(form).where("a/b") == f"{place}/a/b"
