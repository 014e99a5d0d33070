"""Photographs as rows of parquet files: the same as the files, here and in object storage."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from support.object_server import ObjectServer
from support.uploads import upload
from svp.pipeline.datasets import open_dataset
from svp.pipeline.datasets.image_folder import photo_id, read_folder
from svp.pipeline.datasets.images import read_image, read_record
from svp.pipeline.datasets.listing import Listing, list_archive, list_images
from svp.pipeline.datasets.parquet_rows import MAX_ROWS
from svp.pipeline.datasets.photo_files import photo_file, place_of
from svp.pipeline.errors import CacheError, DataError, ImageError, MissingPackageError
from svp.pipeline.precompute.source_images import hash_image
from svp.pipeline.records import ImageRecord


def encoded(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (30 + seed, 40, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG")
    return data.getvalue()


PHOTOS = [encoded(i) for i in range(10)]
NAMES = [f"photo {i}.jpg" for i in range(10)]
FORMS: dict[str, dict[str, Any]] = {
    "hub": {"image": [{"bytes": d, "path": n} for d, n in zip(PHOTOS, NAMES, strict=True)]},
    "columns": {"file_name": NAMES, "jpg": PHOTOS, "mask": PHOTOS},
    "without names": {"image": [{"bytes": d} for d in PHOTOS], "other": [{"x": 1}] * 10},
    "bytes alone": {"anything": PHOTOS, "caption": [["a", "list"]] * 10},
    "dictionaries": {
        "file_name": pa.array(NAMES).dictionary_encode(),
        "image": pa.array(PHOTOS).dictionary_encode(),
    },
    "views": {
        "file_name": pa.array(NAMES, pa.string_view()), "image": pa.array(PHOTOS, pa.binary_view())
    },
    "large": {
        "file_name": pa.array(NAMES, pa.large_string()),
        "image": pa.array(PHOTOS, pa.large_binary()),
    },
}  # fmt: skip
NAMELESS = ("without names", "bytes alone")


def write(path: Path, columns: dict[str, Any], **given: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **{"row_group_size": 4, **given})
    return path


def read(root: Path, name: str) -> bytes:
    with photo_file(root, name, "image").open() as file:
        return file.read()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("where", ["file", "folder", "address"])
def test_a_row_is_a_photograph(tmp_path: Path, bucket: ObjectServer, form: str, where: str) -> None:
    path = write(tmp_path / "set" / "data" / "part-0.parquet", FORMS[form])
    root = tmp_path / "set"
    place = {"file": path, "folder": root}.get(where) or upload(root, "s3://tests/set")
    source = open_dataset(place, alone=True)
    assert len(source.images) == 10
    labels = [f"{i:07d}" for i in range(10)] if form in NAMELESS else NAMES
    for row, record in enumerate(source.images):  # in the order of the rows
        name = record.path.removeprefix("data/")
        assert name == f"part-0.parquet/{labels[row]}#{row}"
        assert place_of(name) == f"part-0.parquet/{labels[row]}"
        assert (record.height, record.width) == (30 + row, 40)
        assert read(source.image_root, record.path) == PHOTOS[row]
        assert np.array_equal(
            read_record(source.image_root, record), read_image_of(tmp_path, PHOTOS[row])
        )
    told = "read in place: 10 photographs in 1 parquet file (first: "
    assert any(line.startswith(told) for line in source.notices)


def read_image_of(folder: Path, data: bytes) -> NDArray[np.uint8]:
    (folder / "one.jpg").write_bytes(data)
    return read_image(folder / "one.jpg")


def test_rows_of_a_bucket_are_read_by_row_groups(tmp_path: Path, bucket: ObjectServer) -> None:
    write(tmp_path / "set" / "a.parquet", FORMS["hub"])
    root = upload(tmp_path / "set", "s3://tests/set")
    first = read_folder(root)
    bucket.set()
    assert read_folder(root).images == first.images
    assert bucket.counts() == {"LIST": 1}  # names and sizes are remembered
    for image in first.images:
        hash_image(root, ImageRecord(image.image_id, image.file_name, 0, 0))
    assert bucket.counts().get("GET", 0) <= 6  # of three row groups, not of ten rows


def test_ids_are_those_of_file_and_row(tmp_path: Path) -> None:
    write(tmp_path / "set" / "a.parquet", FORMS["hub"])
    before = {image.image_id for image in read_folder(tmp_path / "set", _rows(tmp_path)).images}
    write(tmp_path / "set" / "b.parquet", FORMS["columns"])
    after = [image.image_id for image in read_folder(tmp_path / "set", _rows(tmp_path)).images]
    assert before < set(after) and len(after) == 20 and max(after) < 1 << 53
    ids = [photo_id(f"a.parquet/{name}#{row}") for row, name in enumerate(NAMES)]
    assert ids == list(range(ids[0], ids[0] + 10)) and ids[0] % MAX_ROWS == 0


def _rows(tmp_path: Path) -> Listing:
    return list_images(tmp_path / "set", rows=True)


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", FORMS["hub"])
    (name, *_) = list_archive(path).names
    assert read(tmp_path, name) == PHOTOS[0]
    path.unlink()
    write(path, {"image": PHOTOS[5:]})
    (name, *_) = list_archive(path).names
    assert read(tmp_path, name) == PHOTOS[5]


def test_rows_that_hold_no_photograph_are_quarantined(tmp_path: Path) -> None:
    rows = [{"bytes": None, "path": "gone.jpg"}, {"bytes": b"text", "path": "../up.jpg"}, None]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    (tmp_path / "set").mkdir()
    pq.write_table(pa.table({"image": pa.array(rows, kind)}), tmp_path / "set" / "a.parquet")
    names = sorted(list_archive(tmp_path / "set" / "a.parquet").names, key=photo_id)
    assert names == [f"a.parquet/{n}" for n in ("gone.jpg#0", "0000001#1", "0000002#2")]
    reasons = []
    for name in [*names, "a.parquet/x#3", "b.parquet/x#0"]:
        with pytest.raises(ImageError) as error:
            read_record(tmp_path / "set", ImageRecord(1, name, 0, 0))
        reasons.append(error.value.reason)
    assert reasons == ["empty", "not-an-image", "empty", "truncated", "missing"]


def test_a_damaged_row_group_says_what_is_wrong(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"image": PHOTOS}, compression="snappy")
    data = bytearray(path.read_bytes())
    data[200:600] = bytes(400)
    path.write_bytes(data)
    for row, name in enumerate(sorted(list_archive(path).names, key=photo_id)):
        if row < 4:  # those of the group
            with pytest.raises(ImageError, match="unreadable: .*orrupt snappy"):
                read_record(tmp_path, ImageRecord(1, name, 0, 0))
        else:
            assert read(tmp_path, name) == PHOTOS[row]


def test_what_a_folder_holds_beside_is_no_photograph(tmp_path: Path) -> None:
    write(tmp_path / "set" / "texts.parquet", {"caption": ["a", "b"]})
    (tmp_path / "set" / "damaged.parquet").write_bytes(b"PAR1 nothing PAR1")
    write(tmp_path / "set" / "a.parquet", FORMS["hub"])
    (tmp_path / "set" / "a.jpg").write_bytes(PHOTOS[0])
    found = list_images(tmp_path / "set", rows=True)
    assert len(found.names) == 11 and found.passed == {".parquet": 1}
    (line,) = [line for line in found.notices() if "damaged.parquet" in line]
    assert line.startswith("parquet file 'damaged.parquet': not readable as parquet:")
    # Without being asked for, as before: a folder of photographs may hold tables.
    assert list_images(tmp_path / "set").names == ["a.jpg"]


def test_files_that_cannot_be_used_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.parquet", {"left": PHOTOS, "right": PHOTOS})
    with pytest.raises(DataError, match="which of the columns left, right .* Call it image"):
        open_dataset(path, alone=True)
    for first, second in ((PHOTOS, NAMES), (NAMES, PHOTOS)):
        same = pa.Table.from_arrays([pa.array(first), pa.array(second)], names=["image", "image"])
        pq.write_table(same, path)
        with pytest.raises(DataError, match="several columns are called image: rename all but one"):
            open_dataset(path, alone=True)
    path = write(tmp_path / "b.parquet", FORMS["hub"])
    monkeypatch.setattr("svp.pipeline.datasets.parquet_rows.MAX_GROUP", 1000)
    with pytest.raises(DataError, match=r"row group 0 holds .*row_group_size=100"):
        open_dataset(path, alone=True)
    monkeypatch.setattr("svp.pipeline.datasets.parquet_rows.MAX_ROWS", 9)
    with pytest.raises(DataError, match="10 rows; at most 9: split it"):
        open_dataset(path, alone=True)
    with pytest.raises(DataError, match="photographs in parquet files are given with --images"):
        open_dataset(path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingPackageError, match=r"needs pyarrow: pip install 'svp\[parquet\]'"):
        open_dataset(path, alone=True)


def test_a_service_that_fails_is_no_fault_of_a_row(
    tmp_path: Path, bucket: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svp.pipeline.datasets.parquet_rows.WINDOW", 64)
    # More than what arrow reads of any file for its index.
    large = [photo + np.random.default_rng(1).bytes(60_000) for photo in PHOTOS]
    write(tmp_path / "set" / "a.parquet", {"image": large})
    root = upload(tmp_path / "set", "s3://tests/set")
    names = [image.file_name for image in read_folder(root).images]
    bucket.set(refuse="ExpiredToken")
    with pytest.raises(CacheError, match="the credentials have expired"):
        for name in names:
            read(root, name)


def test_folders_may_be_called_parquet(tmp_path: Path, bucket: ObjectServer) -> None:
    write(tmp_path / "set" / "x.parquet" / "a.parquet", FORMS["hub"])
    ours = read_folder(upload(tmp_path / "set", "s3://tests/set"))
    theirs = read_folder(tmp_path / "set", _rows(tmp_path))
    assert ours.images == theirs.images and len(ours.images) == 10
    assert {image.height for image in ours.images} == set(range(30, 40))
