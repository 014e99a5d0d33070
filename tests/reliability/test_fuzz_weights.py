"""Fuzz of tensor files, checkpoint states, model configs and training tables."""

import json
import struct
from pathlib import Path
from typing import Any

import crc32c
import numpy as np
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from support.fuzzing import FUZZ, holds, mutated, mutated_json, seeds
from svp.pipeline.weights.load import load_state_dict
from svp.pipeline.weights.model_config import check_config
from svp.train.data.expression_table import INDEX, TABLE, ExpressionTable, TableFile
from svp.train.trainer.checkpoint import STATE, Checkpoint


def headers() -> list[bytes]:
    """The JSON headers of the safetensors seeds."""
    return [data[8 : 8 + struct.unpack("<Q", data[:8])[0]] for data in seeds("safetensors")]


@FUZZ
@given(mutated(seeds("safetensors")))
def test_safetensors_files(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(data)
    holds(lambda: load_state_dict(path))


@FUZZ
@given(mutated_json(headers()), st.binary(max_size=64))
def test_safetensors_headers(tmp_path: Path, header: object, body: bytes) -> None:
    """Headers that parse: dtypes, shapes and offsets of all kinds over a few bytes."""
    text = json.dumps(header).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    holds(lambda: load_state_dict(path))


@FUZZ
@given(mutated(seeds("torch")))
def test_torch_archives(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(data)
    holds(lambda: load_state_dict(path))


@FUZZ
@given(mutated(seeds("state")) | mutated_json(seeds("state")).map(lambda v: json.dumps(v).encode()))
def test_checkpoint_states(tmp_path: Path, data: bytes) -> None:
    (tmp_path / STATE).write_bytes(data)

    def read() -> None:
        found = Checkpoint.open(tmp_path)
        found.require({"seed": 0}, {"table": "t"})

    holds(read)


@FUZZ
@given(mutated_json([b'{"model_type":"dinov2","hidden_size":8,"layers":[1,2],"x":{"y":"z"}}']))
def test_model_configs(tmp_path: Path, value: object) -> None:
    (tmp_path / "config.json").write_bytes(json.dumps(value).encode())
    holds(lambda: check_config(tmp_path, {"model_type": "dinov2", "hidden_size": 8}))


GOOD = {
    "dataset": [0, 0], "image_id": [4, 9], "cache": [0, 0], "row": [0, 1], "height": [2, 2],
    "width": [4, 4], "first": [0, 1, 3], "sent_id": [1, 2, 3], "ref_id": [1, 2, 2],
    "ann_id": [1, 2, 2], "target": [0, 1, 1], "text_end": [0, 1, 3, 5], "part": [0, 0],
    "offset": [0, 1], "crc": [0, 0],
}  # fmt: skip
TEXT = "xyz\u00e9".encode()  # the last sentence is one character of two bytes
VALUES = st.lists(st.sampled_from([-1, 0, 1, 2, 3, 5, 2**31, 2**62, -(2**63)]), max_size=4)


def read_all(folder: Path) -> list[str]:
    """Everything of a table, as the loader reads it."""
    table = ExpressionTable(folder)
    texts = []
    for number in range(len(table)):
        entry = table.entry(number)
        for said in table.sentences(number):
            texts.append(said.text)
            table.target(said, np.zeros(entry.target_bytes, np.uint8))
    return texts


def write_table(folder: Path, columns: dict[str, np.ndarray[Any, Any]]) -> None:
    """A table whose checksums are all right, whatever its columns are."""
    index = save(columns)
    file = TableFile(
        schema_version=1, digest="a" * 16, caches=["c" * 64], datasets=["d"], sizes=[2], parts=[2],
        index=xxhash.xxh3_64_hexdigest(index), notes=[],
    ).sealed()  # fmt: skip
    (folder / INDEX).write_bytes(index)
    (folder / TABLE).write_bytes(file.data())
    (folder / "targets-00000.bin").write_bytes(b"ab")


def good() -> dict[str, np.ndarray[Any, Any]]:
    """Columns of two entries with one and two sentences."""
    columns: dict[str, np.ndarray[Any, Any]] = {
        name: np.array(values, np.int64) for name, values in GOOD.items()
    }
    columns["crc"] = np.array([crc32c.crc32c(b"a"), crc32c.crc32c(b"b")], np.int64)
    return columns | {"text": np.frombuffer(TEXT, np.uint8)}


def test_the_good_table_is_read(tmp_path: Path) -> None:
    write_table(tmp_path, good())
    assert read_all(tmp_path) == ["x", "yz", "\u00e9"]


@FUZZ
@given(
    st.dictionaries(
        st.sampled_from([*GOOD, "text", "more"]),
        st.tuples(st.sampled_from(["u1", "i4", "i8", "i8", "i8", "f8"]), VALUES, st.booleans()),
        max_size=3,
    ),
    st.sampled_from([*GOOD, "text", "", "", ""]),
)
def test_training_tables(
    tmp_path: Path, changes: dict[str, tuple[str, list[int], bool]], lost: str
) -> None:
    columns = good()
    for name, (dtype, values, nested) in changes.items():
        with np.errstate(invalid="ignore"):  # what a negative number becomes does not matter
            made = np.array(values, np.float64).astype(dtype, casting="unsafe")
        columns[name] = made[None] if nested else made
    columns.pop(lost, None)
    write_table(tmp_path, columns)
    holds(lambda: read_all(tmp_path))
