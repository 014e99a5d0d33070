"""Damaged, disguised and oversized weight files are refused before anything reads them (T22)."""

import copy
import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from svp.pipeline.errors import MissingError, WeightsError
from svp.pipeline.weights.load import load_state_dict

State = dict[str, torch.Tensor]


def state() -> State:
    generator = torch.Generator().manual_seed(0)
    return {
        "a.weight": torch.randn(3, 5, generator=generator),
        "a.bias": torch.randn(3, generator=generator).half(),
        "count": torch.tensor(7),
    }


def sharded(folder: Path, kind: str = "safetensors") -> Path:
    """A folder with two shards and an index."""
    parts = {f"s-1.{kind}": ["a.weight"], f"s-2.{kind}": ["a.bias", "count"]}
    for file, names in parts.items():
        part = {name: state()[name] for name in names}
        if kind == "bin":
            torch.save(part, folder / file)
        else:
            save_file(part, folder / file)
    table = {name: file for file, names in parts.items() for name in names}
    stem = "model" if kind == "safetensors" else "pytorch_model"
    index = folder / f"{stem}.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": table}))
    return index


def torchscript(path: Path) -> None:
    entries = ["constants.pkl", "data.pkl", "code/__torch__.py", "version"]
    with zipfile.ZipFile(path, "w") as archive:
        for name in entries:
            archive.writestr(f"w/{name}", b"x")


def compressed(path: Path) -> None:
    torch.save({"x": torch.zeros(1 << 20)}, path)
    with zipfile.ZipFile(path) as archive:
        parts = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts:
            archive.writestr(name, data)


def overlapping(path: Path) -> None:
    """Directory entries over the same bytes: the pattern of non-recursive archive bombs."""
    torch.save({"x": torch.zeros(1000)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        (big,) = (entry for entry in archive.infolist() if entry.filename.endswith("data/0"))
        for number in range(1, 9):
            second = copy.copy(big)
            second.filename = f"{big.filename}{number}"
            archive.filelist.append(second)
        archive.writestr(big.filename[:-6] + "last", b"")  # makes zipfile write the directory


def trailing(path: Path) -> None:
    torch.save(state(), path)
    path.write_bytes(path.read_bytes() + b"\x80\x04K\x01.")


def leading(path: Path) -> None:
    """One archive after another: which one a reader sees depends on the reader."""
    torch.save(state(), path)
    path.write_bytes(path.read_bytes() * 2)


def truncated(path: Path) -> None:
    torch.save(state(), path)
    path.write_bytes(path.read_bytes()[:-100])


def truncated_legacy(path: Path) -> None:
    torch.save(state(), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-20])


def web_page(path: Path) -> None:
    path.write_text("<!DOCTYPE html><html>404</html>")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def huge_pickle_opcode(path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(state(), buffer, _use_new_zipfile_serialization=False)
    path.write_bytes(
        buffer.getvalue()[:15] + b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"abc."
    )


def huge_storage(path: Path) -> None:
    """A legacy file that promises a tensor of 8 TB."""
    buffer = io.BytesIO()
    torch.save({"x": torch.zeros(3)}, buffer, _use_new_zipfile_serialization=False)
    data = buffer.getvalue().replace(
        b"K\x03N", b"\x8a\x06" + (1 << 41).to_bytes(6, "little") + b"N"
    )
    path.write_bytes(data)


def not_tensors(path: Path) -> None:
    torch.save({"a": torch.zeros(2), "b": 3}, path)


def a_list(path: Path) -> None:
    torch.save([torch.zeros(2)], path)


def number_names(path: Path) -> None:
    torch.save({1: torch.zeros(2)}, path)


def sparse(path: Path) -> None:
    torch.save({"x": torch.eye(4).to_sparse()}, path)


def view_bomb(path: Path) -> None:
    torch.save({"x": torch.zeros(1).expand(1 << 20, 1 << 20)}, path)


BAD: list[Callable[[Path], None]] = [
    torchscript,
    compressed,
    overlapping,
    trailing,
    leading,
    truncated,
    truncated_legacy,
    web_page,
    empty,
    huge_pickle_opcode,
    huge_storage,
    not_tensors,
    a_list,
    number_names,
    sparse,
    view_bomb,
]


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own, on formats it rarely sees
@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_bad_torch_files(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "w.pth"
    make(path)
    with pytest.raises(WeightsError, match=r"w\.pth") as caught:
        load_state_dict(path)
    assert str(caught.value).isprintable()


def header(entries: str, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(entries)) + entries.encode() + data


ENTRY = '"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
BAD_SAFETENSORS = {
    "truncated": header("{" + ENTRY + "}", b"\0\0"),
    "length beyond the file": struct.pack("<Q", 1 << 60) + b"{}",
    "duplicate name": header("{" + ENTRY + "," + ENTRY + "}", b"\0\0\0\0"),
    "not an object": header("[1,2]"),
    "not JSON": header("{nonsense"),
    "deep": header("[" * 100_000),
    "bytes after the tensors": header("{" + ENTRY + "}", b"\0" * 9),
    "shape and bytes disagree": header(
        ENTRY.join("{}").replace("[1]", "[1000000000000]"), b"\0" * 4
    ),
    "overflowing shape": header(ENTRY.join("{}").replace("[1]", f"[{2**63},4]"), b"\0" * 4),
    "unknown dtype": header("{" + ENTRY.replace("F32", "O") + "}", b"\0" * 4),
    "a zip": b"PK\x03\x04" + b"\0" * 100,
    "empty": b"",
}


@pytest.mark.parametrize("data", BAD_SAFETENSORS.values(), ids=BAD_SAFETENSORS.keys())
def test_bad_safetensors(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"w\.safetensors"):
        load_state_dict(path)


def test_name_and_content_must_agree(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "w.safetensors")
    save_file(state(), tmp_path / "w.pth")
    torch.save(state(), tmp_path / "w.exe")
    for name in ("w.safetensors", "w.pth", "w.exe"):
        with pytest.raises(WeightsError):
            load_state_dict(tmp_path / name)


def test_not_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "zero.pth").symlink_to("/dev/zero")
    for name in ("pipe.pth", "zero.pth"):
        with pytest.raises(WeightsError, match="not a regular file"):
            load_state_dict(tmp_path / name)


def test_a_link_to_a_regular_file_loads(tmp_path: Path) -> None:
    """The hub's local cache is made of links into a folder of blobs."""
    save_file(state(), tmp_path / "blob.safetensors")
    (tmp_path / "model.safetensors").symlink_to("blob.safetensors")
    assert load_state_dict(tmp_path).keys() == state().keys()


def test_size_cap(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    with open(path, "wb") as file:
        file.truncate(65 << 30)  # sparse: no disk is used
    with pytest.raises(WeightsError, match="allowed 1 to"):
        load_state_dict(path)


def test_missing(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(MissingError, match="no"):
            load_state_dict(path)


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/x.bin", "a/b.bin", "..\\x.bin", "x.pkl", ".bin", "~x.bin", 3]
)
def test_index_may_name_plain_files_only(tmp_path: Path, name: object) -> None:
    table = {"weight_map": {"a": name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(table))
    with pytest.raises(WeightsError, match="not a plain file name"):
        load_state_dict(tmp_path)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"weight_map": []}', '{"a":1,"a":2}', "[" * 9999]
)
def test_bad_index(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(WeightsError, match=r"index\.json"):
        load_state_dict(tmp_path)


def test_index_and_shards_must_agree(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    table = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": {**table, "ghost": "s-1.safetensors"}}))
    with pytest.raises(WeightsError, match="ghost"):
        load_state_dict(tmp_path)
    del table["count"]
    index.write_text(json.dumps({"weight_map": table}))
    with pytest.raises(WeightsError, match="count"):
        load_state_dict(tmp_path)
    index.write_text(json.dumps({"weight_map": {"x": "gone.safetensors"}}))
    with pytest.raises(MissingError, match=r"1 of its 1 shard .*gone\.safetensors.*repeat it"):
        load_state_dict(tmp_path)


@pytest.mark.parametrize("stem", ["model", "pytorch_model"])
def test_shards_without_their_index_are_named(tmp_path: Path, stem: str) -> None:
    kind = "safetensors" if stem == "model" else "bin"
    (tmp_path / f"{stem}-00001-of-00002.{kind}").write_bytes(b"x")
    with pytest.raises(MissingError, match=rf"without their {stem}\.{kind}\.index\.json"):
        load_state_dict(tmp_path)


def test_a_missing_shard_is_told_before_the_others_are_read(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}))
    (tmp_path / "a.safetensors").write_bytes(b"damaged")
    with pytest.raises(MissingError, match=r"1 of its 2 shards .*b\.safetensors"):
        load_state_dict(tmp_path)
