"""The image list in columns: any list comes back, no damaged or forged one is taken."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from support.cache_model import fast_folder
from svp.pipeline.cache import Images, Plan, PlanImage, image_checks
from svp.pipeline.cache.image_checks import CHECKED, MAX_PATH_BYTES, MAX_SIDE
from svp.pipeline.cache.image_list import (
    BLOCK,
    COLUMNS,
    IdIndex,
    column_key,
)
from svp.pipeline.errors import CacheError, ConfigError
from svp.pipeline.io.binary import crc32c

Columns = dict[str, NDArray[Any]]

characters = st.characters(codec=None, exclude_characters="\\\0")
paths = st.text(characters, min_size=1, max_size=20).filter(
    lambda path: not path.startswith("/") and ".." not in path.split("/")
)
hashes = st.integers(0, (1 << 64) - 1).map(lambda value: f"{value:016x}" if value else "")
images_of = st.lists(
    st.builds(
        PlanImage,
        st.integers(0, (1 << 63) - 1),
        paths,
        st.integers(0, MAX_SIDE),
        st.integers(0, MAX_SIDE),
        st.integers(0, (1 << 63) - 1),
        hashes,
    ),
    max_size=12,
    unique_by=lambda image: image.image_id,
)


def listed(count: int) -> list[PlanImage]:
    return [PlanImage(3 * i + 1, f"d/{i}.jpg", 6, 5, 9, "ab" * 8) for i in range(count)]


@given(images_of)
@settings(max_examples=80, deadline=None)
def test_any_list_comes_back(images: list[PlanImage]) -> None:
    import tempfile

    found = Images.of(images)
    assert [*found] == images and found == images and len(found) == len(images)
    with tempfile.TemporaryDirectory(dir=fast_folder()) as name:
        found.save(Path(name))
        again = Images.load(Path(name), found.header)
        assert [*again] == images
        assert (again, again.digest, again.header) == (found, found.digest, found.header)
        assert hash(again) == hash(found)
        assert pickle.loads(pickle.dumps(again)) == found
        for name, dtype in COLUMNS.items():
            column = again.columns[name]
            assert column.dtype == np.dtype(dtype) and not column.flags.writeable


@pytest.mark.parametrize(
    "path",
    ["ü/ß.jpg", "写真/🦒.png", "a\ud800b.jpg", "\udc80.jpg", "\ud83d\ude00", "a b\n\t.jpg", "..a/b..",
     "...", "a/./b", "x" * (MAX_PATH_BYTES - 1), "\u202e", "a//b"],
)  # fmt: skip
def test_odd_paths_are_kept(path: str) -> None:
    images = listed(3)
    images[1] = images[1]._replace(path=path)
    assert [*Images.of(images)] == images
    assert Images.of(images)[1].path == path


@pytest.mark.parametrize(
    "path",
    ["", "/a", "/", "..", "../a", "a/..", "a/../b", "a\\b", "\\", "a\0b", "\0", "x" * MAX_PATH_BYTES],
)  # fmt: skip
@pytest.mark.parametrize("place", [0, 1, 2])
def test_paths_that_no_plan_may_have(path: str, place: int) -> None:
    images = listed(3)
    images[place] = images[place]._replace(path=path)
    with pytest.raises(ConfigError, match=r"plan images?( path)?[: ]"):
        Images.of(images)


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"image_id": -1}, "must be >= 0"),
        ({"image_id": 1 << 63}, "plan images"),
        ({"image_id": 1}, "occurs twice"),
        ({"height": -1}, "sides must be 0 to"),
        ({"width": MAX_SIDE + 1}, "sides must be 0 to"),
        ({"height": 1 << 40}, "sides must be 0 to"),
        ({"bytes": -1}, "must be >= 0"),
        ({"bytes": 1 << 63}, "plan images"),
        ({"xxh3": "zz"}, "plan images"),
        ({"xxh3": "1" * 17}, "plan images"),
        ({"xxh3": "-1"}, "plan images"),
    ],
)
def test_values_that_no_plan_may_have(more: dict[str, Any], match: str) -> None:
    images = listed(3)
    images[2] = images[2]._replace(**more)
    with pytest.raises(ConfigError, match=match):
        Images.of(images)


def test_it_is_a_sequence() -> None:
    images = listed(10)
    found = Images.of(images)
    cuts = [None, 0, 1, 4, 9, 10, 99, -1, -4, -99]
    for first in cuts:
        for last in cuts:
            for step in (None, 1, 2, 3, 20, -1, -3):
                cut = slice(first, last, step)
                assert found[cut] == tuple(images[cut]), cut
    assert [found[i] for i in (0, 9, -1, -10)] == [images[i] for i in (0, 9, -1, -10)]
    for i in (10, -11, 1 << 70):
        with pytest.raises(IndexError):
            found[i]
    with pytest.raises(ValueError, match="step"):
        found[::0]
    assert images[3] in found and found.index(images[3]) == 3  # the mapping hides no method
    assert [*reversed(found)] == images[::-1]


def test_equality_is_of_content() -> None:
    images = listed(3)
    found = Images.of(images)
    assert found == images == found == tuple(images) and found == Images.of(images)
    assert found != images[:2] and found != images[::-1] and found != 3 and found != "abc"
    for more in ({"image_id": 2}, {"path": "x"}, {"height": 7}, {"width": 7}, {"bytes": 1},
                 {"xxh3": ""}):  # fmt: skip
        other = Images.of([images[0]._replace(**more), *images[1:]])
        assert other != found and other.digest != found.digest and other.folder != found.folder


@pytest.mark.parametrize("count", [BLOCK, BLOCK + 1, CHECKED + 2])
def test_lists_longer_than_a_block(count: int) -> None:
    images = listed(count)
    found = Images.of(images)
    assert [*found] == images
    assert found[BLOCK - 1 : BLOCK + 1] == tuple(images[BLOCK - 1 : BLOCK + 1])
    for path in ("../x", "a\0b", "", "a\\b"):
        images[-1] = images[-1]._replace(path=path)
        with pytest.raises(ConfigError, match="plan image path"):
            Images.of(images)


def test_selected_images_are_a_list_of_their_own() -> None:
    images = listed(10)
    found = Images.of(images)
    assert found.select(range(2, 10, 3)) == images[2::3]
    assert found.select(slice(None, 4)) == images[:4]
    assert found.select([]) == [] and len(found.select([])) == 0


@given(st.lists(st.integers(0, 50), unique=True, max_size=20), st.integers(-2, 60))
@settings(max_examples=80, deadline=None)
def test_ids_are_found_in_any_order(ids: list[int], other: int) -> None:
    index = IdIndex(np.array(ids, np.int64))
    assert {image_id: index[image_id] for image_id in ids} == {v: i for i, v in enumerate(ids)}
    assert [*index] == ids and len(index) == len(ids)
    assert (other in index) == (other in ids)
    assert index.get(other, -1) == (ids.index(other) if other in ids else -1)
    for huge in (1 << 63, 1 << 70, -(1 << 70)):
        assert huge not in index
    assert dict(index) == {v: i for i, v in enumerate(ids)}


# Files.


def test_saving_again_writes_nothing_and_a_short_file_anew(tmp_path: Path) -> None:
    found = Images.of(listed(5))
    found.save(tmp_path)
    files = {name: tmp_path / column_key(found.folder, name) for name in COLUMNS}
    before = {name: path.stat() for name, path in files.items()}
    found.save(tmp_path)
    assert {name: path.stat() for name, path in files.items()} == before
    os.truncate(files["hw"], 10)
    found.save(tmp_path)
    assert Images.load(tmp_path, found.header) == found
    assert not list(tmp_path.rglob("*.partial/*"))


def damage() -> dict[str, Callable[[Path], object]]:
    def write(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
        return lambda path: path.write_bytes(change(path.read_bytes()))

    def replaced(make: Callable[[Path], object]) -> Callable[[Path], object]:
        def change(path: Path) -> None:
            path.rename(path.with_name("real"))
            make(path)

        return change

    return {
        "first byte": write(lambda data: bytes([data[0] ^ 1]) + data[1:]),
        "last byte": write(lambda data: data[:-1] + bytes([data[-1] ^ 1])),
        "checksum": write(lambda data: data[:-4] + bytes([data[-4] ^ 0x80]) + data[-3:]),
        "short": write(lambda data: data[:-1]),
        "without checksum": write(lambda data: data[:-4]),
        "long": write(lambda data: data + b"\0"),
        "empty": write(lambda data: b""),
        "lost": Path.unlink,
        "link": replaced(lambda path: path.symlink_to("real")),
        "dangling": replaced(lambda path: path.symlink_to("nowhere")),
        "folder": replaced(Path.mkdir),
        "pipe": replaced(os.mkfifo),
    }


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("how", damage())
def test_a_damaged_column_is_named(
    planner: Callable[..., Plan], tmp_path: Path, name: str, how: str
) -> None:
    plan = planner()
    plan.save(tmp_path)
    path = tmp_path / column_key(plan.images.folder, name)
    damage()[how](path)
    with pytest.raises(CacheError, match=f"{path}: .*the image list is damaged"):
        Plan.load(tmp_path)


def forge(cache: Path, columns: Columns, **header: object) -> dict[str, Any]:
    """A list of these columns with every checksum right, as an attacker would write it."""
    made = object.__new__(Images)  # unchecked
    made.columns = columns
    made.id = np.zeros(header.get("count", len(columns["id"])), np.int64)  # type: ignore[arg-type]
    for name, column in columns.items():
        path = cache / column_key(made.folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        data = column.tobytes()
        path.write_bytes(data + crc32c(data).to_bytes(4, "little"))
    return made.header


def sound() -> Columns:
    return {name: np.array(column) for name, column in Images.of(listed(3)).columns.items()}


def test_the_helper_forges_as_svp_writes(tmp_path: Path) -> None:
    assert forge(tmp_path, sound()) == Images.of(listed(3)).header
    assert Images.load(tmp_path, forge(tmp_path, sound())) == listed(3)


def raw(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)


PATHS = b"d/0.jpg\0d/1.jpg\0d/2.jpg\0"
FORGED: dict[str, Columns] = {
    "an id twice": {"id": np.array([1, 4, 1])},
    "a negative id": {"id": np.array([-1, 4, 7])},
    "negative bytes": {"bytes": np.array([9, -9, 9])},
    "a huge side": {"hw": np.full((3, 2), MAX_SIDE + 1, np.uint32)},
    "fewer ids": {"id": np.array([1, 4])},
    "more ids": {"id": np.array([1, 4, 7, 9])},
    "fewer sizes": {"hw": np.full((2, 2), 6, np.uint32)},
    "half a size": {"hw": np.full(5, 6, np.uint32)},
    "bits of an id": {"id": raw(bytes(25))},
    "bits of a hash": {"xxh3": raw(bytes(23))},
    "no ids": {"id": np.zeros(0, np.int64)},
    "an end inside a path": {"ends": np.array([7, 16, 24], np.uint64)},
    "an end behind": {"ends": np.array([9, 16, 24], np.uint64)},
    "ends that fall": {"ends": np.array([16, 8, 24], np.uint64)},
    "an end twice": {"ends": np.array([8, 8, 24], np.uint64)},
    "an end at zero": {"ends": np.array([0, 16, 24], np.uint64)},
    "an end outside": {"ends": np.array([8, 16, 25], np.uint64)},
    "an end far outside": {"ends": np.array([99, 16, 24], np.uint64)},
    "a huge end": {"ends": np.array([8, 1 << 63, 24], np.uint64)},
    "the hugest end": {"ends": np.array([8, 16, (1 << 64) - 1], np.uint64)},
    "paths unused": {"paths": raw(PATHS + b"e\0")},
    "paths cut": {"paths": raw(PATHS[:-2])},
    "no paths": {"paths": raw(b"")},
    "no last NUL": {"paths": raw(PATHS[:-1] + b"g")},
    "a NUL in a path": {"paths": raw(PATHS.replace(b"d/1", b"d\x001"))},
    "NULs elsewhere": {"paths": raw(b"d/0.j\0gxd/1.jpg\0d/2.jpg\0")},
    "traversal": {"paths": raw(PATHS.replace(b"d/1.jpg", b"../.jpg"))},
    "absolute": {"paths": raw(PATHS.replace(b"d/1", b"/d1"))},
    "backslash": {"paths": raw(PATHS.replace(b"d/1", b"d\\1"))},
    "no UTF-8": {"paths": raw(PATHS.replace(b"d/1", b"d\xff1"))},
    "UTF-8 over an end": {"paths": raw(PATHS.replace(b"1.jpg\0", b"1.jp\xc3\0"))},
}


@pytest.mark.parametrize("block", [1, 2, 1 << 16])
@pytest.mark.parametrize("name", FORGED)
def test_a_forged_list_is_refused(
    tmp_path: Path, name: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_checks, "CHECKED", block)
    header = forge(tmp_path, sound() | FORGED[name], count=3)
    with pytest.raises(CacheError, match="damaged"):
        Images.load(tmp_path, header)


def test_a_forged_list_of_no_image_is_refused(tmp_path: Path) -> None:
    empty = {name: np.array(column) for name, column in Images.of([]).columns.items()}
    assert len(Images.load(tmp_path, forge(tmp_path, empty))) == 0
    with pytest.raises(CacheError, match="damaged"):
        Images.load(tmp_path, forge(tmp_path, empty | {"paths": raw(b"x\0")}, count=0))
    with pytest.raises(CacheError, match="damaged"):
        Images.load(tmp_path, forge(tmp_path, sound(), count=0))


def test_the_header_holds_the_hash_of_every_column() -> None:
    found = Images.of(listed(3))
    assert found.header["count"] == 3
    for name, column in found.columns.items():
        said = found.header["columns"][name]
        assert said == {
            "bytes": column.nbytes,
            "xxh3_128": xxhash.xxh3_128_hexdigest(column.tobytes()),
        }
