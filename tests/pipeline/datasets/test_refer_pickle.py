"""REFER pickles: good files of every protocol load, nothing in a hostile one ever runs."""

import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from svp.pipeline.datasets import refer_pickle, refer_records
from svp.pipeline.datasets.refer_records import Ref, RefSentence, load_refs
from svp.pipeline.errors import DataError, MissingError


def ref(number: int = 0, **changes: Any) -> dict[str, Any]:
    sentence = {"sent_id": number, "sent": "red cup", "raw": "Red cup.", "tokens": ["red", "cup"]}
    made = {
        "ref_id": number,
        "ann_id": 10 + number,
        "image_id": 100 + number,
        "category_id": 1,
        "split": "train",
        "sent_ids": [number],
        "file_name": "COCO_train2014_000000000100_10.jpg",
        "sentences": [sentence],
    }
    return {**made, **changes}


def write(path: Path, value: object, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_gives_the_same_refs(protocol: int, tmp_path: Path) -> None:
    path = write(tmp_path / "refs(unc).p", [ref(0), ref(1, extra={"ignored": 2.5})], protocol)
    refs, notices = load_refs(path)
    assert refs == [
        Ref(0, (10,), 100, "train", (RefSentence(0, "red cup"),)),
        Ref(1, (11,), 101, "train", (RefSentence(1, "red cup"),)),
    ]
    assert notices == []


def python_2(text: bytes) -> bytes:
    """The refs of a Python 2 file: byte strings (SHORT_BINSTRING), protocol 2."""

    def string(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def value(item: object) -> bytes:
        if isinstance(item, dict):
            pairs = b"".join(value(k) + value(v) for k, v in item.items())
            return b"}(" + pairs + b"u"
        if isinstance(item, list):
            return b"](" + b"".join(value(part) for part in item) + b"e"
        if isinstance(item, int):
            return b"J" + struct.pack("<i", item)
        return string(text if item == "red cup" else str(item).encode())

    return b"\x80\x02" + value([ref()]) + b"."


def test_python_2_strings(tmp_path: Path) -> None:
    path = tmp_path / "refs(unc).p"
    path.write_bytes(python_2("café".encode()))
    refs, notices = load_refs(path)
    assert refs[0].sentences == (RefSentence(0, "café"),) and notices == []
    path.write_bytes(python_2("café".encode("latin1")))
    refs, notices = load_refs(path)
    assert refs[0].sentences == (RefSentence(0, "café"),) and "Latin-1" in notices[0]


@pytest.mark.parametrize("encoding", ["utf-8", "latin1"])
def test_python_2_strings_of_protocol_0(encoding: str, tmp_path: Path) -> None:
    """A STRING's bytes may be any: escaped as Python 2 writes them, or as they are."""
    said = "café".encode(encoding)
    for shown in (said, repr(said)[2:-1].encode()):
        # Protocol 0 of Python 3 writes texts as UNICODE; Python 2 wrote byte strings as STRING.
        data = pickle.dumps([ref()], 0)
        assert b"Vred cup\n" in data
        path = tmp_path / "refs(unc).p"
        path.write_bytes(data.replace(b"Vred cup\n", b"S'" + shown + b"'\n"))
        refs, _ = load_refs(path)
        assert refs[0].sentences[0][1] == "café"


class Attack:
    """Writes a file when unpickled."""

    def __init__(self, call: Any, *args: Any) -> None:
        self.call = (call, args)

    def __reduce__(self) -> Any:
        return self.call


def attacks(mark: Path) -> dict[str, tuple[bytes, str]]:
    import os

    run = f"open({str(mark)!r}, 'w')"
    text = run.encode()
    huge = struct.pack("<Q", 1 << 40)
    return {
        "os.system": (pickle.dumps(Attack(os.system, f"touch {mark}")), "system"),
        "eval": (pickle.dumps(Attack(eval, run)), "builtins.eval"),
        "exec, protocol 0": (pickle.dumps(Attack(exec, run), 0), "builtin"),
        "builtins alone": (b"cbuiltins\nlist\n.", "builtins.list"),
        "getattr": (b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93.", "builtins.getattr"),
        "copyreg": (b"ccopy_reg\n_reconstructor\n.", "copy_reg"),
        "inside refs": (pickle.dumps([ref(0, split=Attack(eval, run))]), "builtins.eval"),
        "inst": (b"(S'" + text.replace(b"'", b'"') + b"'\nibuiltins\neval\n.", "opcode INST"),
        "obj": (b"(cbuiltins\neval\nS'1'\no.", "builtins.eval"),
        "newobj": (b"\x80\x02cbuiltins\nset\n)\x81.", "builtins.set"),
        "reduce without global": (b"S'a'\n(tR.", "opcode REDUCE"),
        "build": (b"}}b.", "opcode BUILD"),
        "extension": (b"\x80\x02\x82\x01.", "opcode EXT1"),
        "extension 4": (b"\x80\x02\x84\x01\0\0\0.", "opcode EXT4"),
        "persistent id": (b"Phello\n.", "PERSID"),
        "binary persistent id": (b"K\x01Q.", "PERSID"),
        "set": (b"\x80\x04\x8f.", "opcode EMPTY_SET"),
        "buffer": (b"\x80\x05\x97.", "opcode NEXT_BUFFER"),
        "bytearray of 1 TB": (b"\x80\x05\x96" + huge, "damaged or cut off"),
        "string of 1 TB": (b"\x80\x04\x8d" + huge + b"x.", "damaged or cut off"),
        "frame of 1 TB": (b"\x80\x04\x95" + huge + b"N.", "damaged or cut off"),
        "negative length": (b"\x80\x02\x8b\xff\xff\xff\xff.", "damaged or cut off"),
        "memo index of 4 billion": (b"]r\xff\xff\xff\xff0K\x01.", "memo index"),
        "nested": (b"]" * 200_000 + b"a" * 199_999 + b".", "is not a dict"),
        "number of 5000 digits": (b"I" + b"9" * 5000 + b"\n.", "not a pickle of lists"),
        "stack underflow": (b"a.", "not a pickle of lists"),
        "unhashable key": (b"}]N s.".replace(b" ", b""), "not a pickle of lists"),
        "protocol 9": (b"\x80\x09N.", "not a pickle of lists"),
        "empty": (b"", "damaged or cut off"),
        "no stop": (b"]", "damaged or cut off"),
        "text": (b"not a pickle", "opcode"),
    }


@pytest.mark.parametrize("name", attacks(Path("x")))
def test_hostile_files_are_refused_and_run_nothing(name: str, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    data, rule = attacks(mark)[name]
    path = tmp_path / "refs(unc).p"
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        load_refs(path)
    message = str(caught.value)
    assert rule in message and "refs(unc).p" in message
    assert message.isprintable() and len(message) < 600
    assert not mark.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_truncated_anywhere_gives_nothing(protocol: int, tmp_path: Path) -> None:
    whole = pickle.dumps([ref(0), ref(1)], protocol)
    path = tmp_path / "refs(unc).p"
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError):
            load_refs(path)


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.binary(max_size=60), st.integers(0, 400), st.integers(0, 255))
def test_any_bytes_load_or_are_a_data_error(
    tmp_path: Path, noise: bytes, place: int, value: int
) -> None:
    path = tmp_path / "refs(unc).p"
    damaged = bytearray(pickle.dumps([ref()], 4))
    damaged[place % len(damaged)] = value
    for data in (noise, bytes(damaged)):
        path.write_bytes(data)
        try:
            load_refs(path)
        except DataError:
            continue


WRONG = {
    "no list": ({"refs": []}, "expected a list of refs"),
    "no dict": ([3], "ref 0: 3 is not a dict"),
    "bool id": ([ref(image_id=True)], "image_id True is not an id"),
    "negative id": ([ref(ref_id=-1)], "ref_id -1 is not an id"),
    "float id": ([ref(ann_id=2.0)], "ann_id 2.0 is not an id"),
    "huge id": ([ref(category_id=1 << 70)], "is not an id"),
    "list with a wrong id": ([ref(ann_id=[3, "x"])], "ann_id 'x' is not an id"),
    "sentences": ([ref(sentences="red cup")], "sentences 'red cup' is not a list"),
    "tokens": (
        [ref(sentences=[{"sent_id": 0, "sent": "a", "raw": "a", "tokens": [3]}])],
        "3 is not a plain string",
    ),
    "NUL": ([ref(split="tr\0ain")], "not a plain string"),
    "long": ([ref(split="x" * 10_001)], "not a plain string"),
    "bytes": ([ref(split=3)], "3 is not a plain string"),
    "sent_ids": ([ref(sent_ids=[0, 1])], "sent_ids do not match"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_types_name_the_ref(case: str, tmp_path: Path) -> None:
    value, rule = WRONG[case]
    with pytest.raises(DataError, match=rule):
        load_refs(write(tmp_path / "refs(unc).p", value))


@pytest.mark.parametrize("key", sorted(ref()))
def test_a_missing_key_is_named(key: str, tmp_path: Path) -> None:
    broken = ref()
    del broken[key]
    with pytest.raises(DataError, match=f"{key} is missing"):
        load_refs(write(tmp_path / "refs(unc).p", [broken]))


def test_shared_objects_do_not_escape_the_cap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refer_records, "MAX_NODES", 5_000)
    tokens = ["x"] * 100
    sentence = {"sent_id": 0, "sent": "a", "raw": "a", "tokens": tokens}
    bomb = [ref(sentences=[sentence] * 100, sent_ids=[0] * 100)] * 100
    path = write(tmp_path / "refs(unc).p", bomb)
    assert path.stat().st_size < 3_000
    with pytest.raises(DataError, match="more than 5000 values"):
        load_refs(path)


def test_size_cap_and_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingError, match="no REFER file"):
        load_refs(tmp_path / "refs(unc).p")
    path = write(tmp_path / "refs(unc).p", [ref()])
    monkeypatch.setattr(refer_pickle, "MAX_BYTES", 10)
    with pytest.raises(DataError, match="at most 10"):
        load_refs(path)
