"""Photographs in object storage: listed once, read as the files of a folder are."""

import io
import json
import logging
import tarfile
import uuid
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.object_server import ObjectServer
from support.uploads import upload
from svp.pipeline.cache.plan import PlanImage
from svp.pipeline.datasets import open_dataset
from svp.pipeline.datasets.image_folder import read_folder
from svp.pipeline.datasets.image_roots import find_images
from svp.pipeline.datasets.images import image_header, read_record
from svp.pipeline.datasets.listing import list_images
from svp.pipeline.datasets.photo_files import photo_file
from svp.pipeline.datasets.seen_photos import HEADER, SeenPhotos
from svp.pipeline.datasets.stored_listing import list_stored
from svp.pipeline.datasets.stored_photos import HEAD, listing, root_name
from svp.pipeline.datasets.validate import check
from svp.pipeline.errors import CacheError, ConfigError, DataError, ImageError, MissingError
from svp.pipeline.precompute.source_images import fetch, hash_image, photo_size, read_verified
from svp.pipeline.records import ImageRecord
from svp.pipeline.store import Stat, open_store


def encoded(seed: int, kind: str = "JPEG", side: int = 40) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (30 + seed, side, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind)
    return data.getvalue()


def pack(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of what may lie there: photographs, texts, a tar file, what cannot be read."""
    folder = tmp_path / "photos"
    for i, kind in enumerate(["JPEG", "PNG", "WEBP"]):
        path = folder / ("." if i else "below") / f"p{i}.{kind.lower()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(i, kind))
    (folder / "no-suffix").write_bytes(encoded(7))
    (folder / "README").write_text("no photograph")
    (folder / "notes.txt").write_text("no photograph either")
    (folder / "scan.tif").write_bytes(b"II*\0")
    (folder / ".hidden.jpg").write_bytes(encoded(1))
    (folder / "broken.jpg").write_bytes(encoded(3)[:300])
    (folder / "empty.png").write_bytes(b"")
    (folder / "a-1-mask.png").write_bytes(encoded(1, "PNG"))
    (folder / "a.json").write_text("{}")
    members = {f"in/m{i}.jpg": encoded(i) for i in range(3)} | {"in/m0.json": b"{}"}
    pack(folder / "below" / "sa.tar", members)
    return folder


@pytest.mark.parametrize("scheme", ["memory", "s3"])
def test_an_address_is_read_as_the_folder_is(
    photos: Path, bucket: ObjectServer, scheme: str
) -> None:
    root = upload(photos, f"{scheme}://{uuid.uuid4().hex}/sets/photos")
    ours, theirs = read_folder(root), read_folder(photos)
    assert ours.images == theirs.images and len(ours.images) == 9
    said = [line.replace(root_name(root), str(photos)) for line in ours.notices]
    assert said == list(theirs.notices)
    assert (ours.name, ours.root) == ("photos", root)
    for image in ours.images:
        record = ImageRecord(image.image_id, image.file_name, image.height, image.width)
        if image.height:
            assert np.array_equal(read_record(root, record), read_record(photos, record))
        else:
            with pytest.raises(ImageError) as here:
                read_record(root, record)
            with pytest.raises(ImageError) as there:
                read_record(photos, record)
            assert here.value.reason == there.value.reason
        assert hash_image(root, record) == hash_image(photos, record)
        assert photo_size(root, record) == photo_size(photos, record)


def test_listing_and_headers_take_one_request_each_and_are_remembered(
    tmp_path: Path, bucket: ObjectServer
) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(40):
        (tmp_path / "photos" / f"{i}.jpg").write_bytes(encoded(i))
    root = upload(tmp_path / "photos", "s3://tests/photos")
    bucket.set()
    first = read_folder(root)
    assert bucket.counts() == {"LIST": 1, "GET": 40}
    bucket.set()
    assert read_folder(root).images == first.images
    assert bucket.counts() == {"LIST": 1}
    # A replaced object has another ETag.
    open_store("s3://tests/photos").replace("7.jpg", encoded(50))
    bucket.set()
    again = {image.file_name: image.height for image in read_folder(root).images}
    assert bucket.counts() == {"LIST": 1, "GET": 1} and again["7.jpg"] == 80


def test_of_many_photographs_only_the_first_are_looked_at(
    tmp_path: Path, bucket: ObjectServer
) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(20):
        (tmp_path / "photos" / f"{i}.jpg").write_bytes(encoded(i))
    every = read_folder(tmp_path / "photos").images
    bucket.set()
    for root in (tmp_path / "photos", upload(tmp_path / "photos", "s3://tests/photos")):
        assert read_folder(root, limit=3).images == every[:3]
        assert read_folder(root, limit=30).images == every
    assert bucket.counts()["GET"] == 20
    assert (
        open_dataset("s3://tests/photos", limit=2).images
        == open_dataset(tmp_path / "photos", alone=True, limit=2).images
    )


def test_a_header_after_much_else_is_found(bucket: ObjectServer) -> None:
    plain = encoded(5)
    segment = b"\xff\xef" + (60_000).to_bytes(2, "big") + bytes(59_998)
    long = plain[:2] + 3 * segment + plain[2:]
    assert len(long) > 2 * HEAD
    open_store("s3://tests/photos").replace("long.jpg", long)
    bucket.set()
    photo = photo_file(Path("s3://tests/photos"), "long.jpg", "image", len(long))
    assert image_header(photo).stored == (35, 40)
    assert bucket.counts() == {"GET": 2}


def test_a_tar_file_is_listed_by_its_headers_alone(tmp_path: Path, bucket: ObjectServer) -> None:
    (tmp_path / "sets").mkdir()
    members = {f"m{i}.jpg": encoded(i, side=700) + bytes(100_000) for i in range(6)}
    packed = pack(tmp_path / "sets" / "sa_0.tar", members)
    root = upload(tmp_path / "sets", "s3://tests/sets")
    bucket.set()
    found = list_stored(root)
    assert len(found.names) == 6 and found.archives == {"sa_0.tar": 6}
    requests = bucket.counts()
    assert requests["LIST"] == 1 and requests["GET"] <= 8  # a header each, and the end
    bucket.set()
    assert list_stored(root).names == found.names
    assert bucket.counts() == {"LIST": 1}
    # The same as the file's own: positions, so also the bytes.
    for name in found.names:
        here, there = (photo_file(where, name, "image") for where in (root, tmp_path / "sets"))
        with here.open() as ours, there.open() as theirs:
            assert ours.read() == theirs.read()
    pack(packed, {"other.jpg": encoded(1)})
    upload(tmp_path / "sets", "s3://tests/sets")
    assert [name.partition("#")[0] for name in list_stored(root).names] == ["sa_0.tar/other.jpg"]


def test_one_tar_file_is_a_data_set(photos: Path, bucket: ObjectServer) -> None:
    root = upload(photos, "s3://tests/sets/photos")
    source = open_dataset("s3://tests/sets/photos/below/sa.tar")
    assert source.image_root == root / "below" and len(source.images) == 3
    for record in source.images:
        assert read_record(source.image_root, record).shape == (record.height, record.width, 3)


def test_a_damaged_tar_file_is_told_as_one_on_a_disk(photos: Path, bucket: ObjectServer) -> None:
    packed = photos / "below" / "sa.tar"
    packed.write_bytes(packed.read_bytes()[:2500])
    (photos / "packed.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    root = upload(photos, "s3://tests/photos")
    assert list_stored(root).damaged == sorted(list_images(photos).damaged)
    assert len(list_images(photos).damaged) == 2


def test_folders_and_members_may_be_called_tar(tmp_path: Path, bucket: ObjectServer) -> None:
    folder = tmp_path / "sets" / "odd.tar" / "x.tar.d"
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_bytes(encoded(1))
    pack(tmp_path / "sets" / "odd.tar" / "x.tar", {"y.tar/b.jpg": encoded(2)})
    root = upload(tmp_path / "sets", "s3://tests/sets")
    ours, theirs = read_folder(root), read_folder(tmp_path / "sets")
    assert ours.images == theirs.images and {i.height for i in ours.images} == {31, 32}


def test_what_is_no_name_of_a_photograph_is_counted(bucket: ObjectServer) -> None:
    store = open_store("s3://tests/photos")
    for key in ("good.jpg", ".cache/a.jpg", "x.tar/y.jpg#512,9"):
        store.replace(key, encoded(1))
    store.replace("folder-mark", b"")
    found = list_stored(Path("s3://tests/photos"))
    assert (found.names, found.hidden, found.unsafe) == (["good.jpg"], 1, 1)
    assert not found.passed
    assert "skipped: 1 member of tar files or objects with unsafe names" in found.notices()


def test_marks_of_folders_are_no_files(bucket: ObjectServer) -> None:
    """As the console of S3 makes them: an object of the folder's name and a slash."""
    store = open_store("s3://tests/photos")
    for key in ("a.jpg", "in.2017/b.jpg", "c.jpg/d.jpg"):
        store.replace(key, encoded(1))
    store.replace("empty.jpg", b"")
    for mark in ("", "in.2017/", "c.jpg/"):
        bucket.put(f"tests/photos/{mark}", b"")
    assert len([*store.stats()]) == 7
    assert listing(Path("s3://tests/photos")).keys() == {
        "a.jpg", "in.2017/b.jpg", "c.jpg/d.jpg", "empty.jpg"
    }  # fmt: skip
    found = list_stored(Path("s3://tests/photos"))
    assert found.names == ["a.jpg", "c.jpg/d.jpg", "empty.jpg", "in.2017/b.jpg"]
    assert found.notices() == []


@pytest.mark.parametrize("name", [
    "sp ace.jpg", "p%20c.jpg", "p%2Fd.jpg", "100%.jpg", "a+b.jpg", "q?x.jpg", "h#1.jpg", "am&p.jpg",
    "\u65e5\u672c/\u5199.jpg", "e\u0301.jpg", "'q\".jpg", "a;b=c.jpg", "[x].jpg", "star*.jpg", "UP.JPG", "dot./a.jpg",
    "sp /b.jpg", "\U0001f600.jpg",
])  # fmt: skip
def test_an_object_may_have_any_name_that_a_file_may_have(bucket: ObjectServer, name: str) -> None:
    open_store("s3://tests/photos").replace(name, encoded(1))
    root = Path("s3://tests/photos")
    assert list_stored(root).names == [name]
    assert read_record(root, ImageRecord(1, name, 0, 0)).shape == (31, 40, 3)


def test_one_object_that_is_no_archive_says_what_to_give(bucket: ObjectServer) -> None:
    store = open_store("s3://tests/photos")
    for key in ("a.jpg", "data.jsonl"):
        store.replace(key, encoded(1))
        with pytest.raises(DataError, match=rf"s3://tests/photos/{key}: is one object.*above it"):
            open_dataset(f"s3://tests/photos/{key}")
    with pytest.raises(MissingError, match="no object below this address"):
        open_dataset("s3://tests/photos/~a.jpg")  # a name that no object of svp has


def test_annotations_find_their_photographs_below_an_address(bucket: ObjectServer) -> None:
    names = [f"COCO_train2014_{i:012d}.jpg" for i in range(60)]
    store = open_store("s3://tests/coco/all/train2014")
    for name in names:
        store.replace(name.removeprefix("COCO_train2014_"), encoded(1))
    bucket.set()
    found = find_images(names, Path("s3://tests/coco/all"), [])
    assert bucket.counts() == {"LIST": 1}
    assert found.root == Path("s3://tests/coco/all/train2014") and found.renamed
    assert len(found.listed) == 60 and f"{7:012d}.jpg" in found.listed
    with pytest.raises(MissingError, match=r"found in s3://tests/coco/all, nor in its folders"):
        find_images(["other.jpg"], Path("s3://tests/coco/all"), [])
    with pytest.raises(MissingError, match=r"no object below s3://tests/nothing: is the prefix"):
        find_images(names, Path("s3://tests/nothing"), [])


def test_jsonl_with_its_photographs_at_an_address(tmp_path: Path, bucket: ObjectServer) -> None:
    (tmp_path / "photos").mkdir()
    lines = []
    for i in range(5):
        (tmp_path / "photos" / f"{i}.jpg").write_bytes(encoded(i))
        box = [[1, 1, 20, 1, 20, 20, 1, 20]]
        line = {"image": f"{i}.jpg", "expression": "a thing", "mask": box, "split": "train"}
        lines.append(json.dumps(line))
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    root = upload(tmp_path / "photos", "s3://tests/photos")
    bucket.set()
    ours = open_dataset(tmp_path / "data.jsonl", images=root)
    assert bucket.counts() == {"LIST": 1, "GET": 5}
    theirs = open_dataset(tmp_path / "data.jsonl", images=tmp_path / "photos")
    assert (ours.images, ours.sentences) == (theirs.images, theirs.sentences)
    assert ours.image_root == root and ours.listed.keys() == {f"{i}.jpg" for i in range(5)}


def test_training_asks_no_server_for_photographs(bucket: ObjectServer, photos: Path) -> None:
    bucket.set(refuse="ExpiredToken")
    (photos / "instances.json").write_text(json.dumps({
        "images": [{"id": 1, "file_name": "p1.png", "height": 31, "width": 40}],
        "annotations": [], "categories": [],
    }))  # fmt: skip
    given = {"images": Path("s3://tests/photos"), "photos": False}
    source = open_dataset(photos / "instances.json", **given)  # type: ignore[arg-type]
    assert source.image_root == Path("s3://tests/photos") and bucket.counts() == {}


def test_the_check_command_reads_an_address(photos: Path, bucket: ObjectServer) -> None:
    report = check(str(upload(photos, "s3://tests/photos")).replace(":/", "://"))
    images = report.groups["images"]
    assert images["root"] == "s3://tests/photos" and images["good"] == 7
    assert images["truncated"] == images["empty"] == 1
    bucket.set()
    check("s3://tests/photos")
    # The first bytes of the two without suffix, the seven photographs, and twice the broken one, of
    # which nothing is remembered. Sizes are listed: nothing is asked for them.
    assert bucket.counts() == {"LIST": 1, "GET": 2 + 7 + 2}


@pytest.mark.parametrize("code", ["ExpiredToken", "AccessDenied"])
def test_a_service_that_refuses_is_no_fault_of_a_photograph(
    photos: Path, bucket: ObjectServer, code: str
) -> None:
    root = upload(photos, "s3://tests/photos")
    found = list_stored(root)
    bucket.set(refuse=code)
    cause = "the credentials have expired" if code == "ExpiredToken" else "access refused"
    with pytest.raises(CacheError, match=rf"s3://tests/photos.*{cause}"):
        read_folder(root, found)
    with pytest.raises(CacheError, match=cause):
        read_folder(root)


def test_a_service_that_stays_away_is_no_fault_of_a_photograph(bucket: ObjectServer) -> None:
    open_store("s3://tests/photos").replace("a.jpg", encoded(1))
    found = list_stored(Path("s3://tests/photos"))
    bucket.set(error_rate=1.0)
    with pytest.raises(CacheError, match=r"s3://tests/photos/a.jpg: the service failed .*503"):
        read_folder(Path("s3://tests/photos"), found)


def test_passing_faults_are_not_noticed(photos: Path, bucket: ObjectServer) -> None:
    root = upload(photos, "s3://tests/photos")
    bucket.set(error_rate=0.2, cut_rate=0.2)
    assert read_folder(root).images == read_folder(photos).images


def test_an_address_of_nothing_says_what_is_not_there(bucket: ObjectServer) -> None:
    with pytest.raises(MissingError, match="s3://absent/x: no such bucket"):
        open_dataset("s3://absent/x")
    with pytest.raises(MissingError, match="s3://tests/typo: no object below this address"):
        open_dataset("s3://tests/typo")
    with pytest.raises(MissingError, match="s3://tests/typo.tar: no object below"):
        open_dataset("s3://tests/typo.tar")
    open_store("s3://tests/texts").replace("a.txt", b"text")
    with pytest.raises(MissingError, match=r"s3://tests/texts: no image in a format .* 1 \.txt"):
        open_dataset("s3://tests/texts")
    for address in ("s3://key:secret@tests/photos", "s3://tests/photos?X-Amz-Signature=secret"):
        with pytest.raises(ConfigError, match="holds more than a bucket and a prefix") as error:
            open_dataset(address)
        assert "secret" not in str(error.value)


def test_a_bucket_that_goes_away_is_no_missing_photograph(bucket: ObjectServer) -> None:
    record = ImageRecord(1, "a.jpg", 0, 0)
    with pytest.raises(CacheError, match="no such bucket: was it deleted"):
        read_record(Path("s3://absent/photos"), record)
    with pytest.raises(ImageError) as error:
        read_record(Path("s3://tests/photos"), record)
    assert error.value.reason == "missing"


def test_names_of_data_files_stay_below_the_address(bucket: ObjectServer) -> None:
    for name in ("../other/a.jpg", "/a.jpg", "a//b.jpg", "a.tar/../../b.jpg#0,5"):
        with pytest.raises(DataError, match="refused"):
            photo_file(Path("s3://tests/photos"), name, "line 1")


@pytest.mark.parametrize(
    ("position", "reason"),
    [
        ("0,0", "empty"),
        ("0,700", "not-an-image"),
        ("512,99999", "truncated"),
        ("99999999,10", "truncated"),
        ("999999999999999,999999999999999", "too-large"),
    ],
)
def test_a_position_that_is_wrong_in_a_bucket_is_a_reason(
    tmp_path: Path, bucket: ObjectServer, position: str, reason: str
) -> None:
    (tmp_path / "sets").mkdir()
    pack(tmp_path / "sets" / "a.tar", {"b.jpg": encoded(1)})
    root = upload(tmp_path / "sets", "s3://tests/sets")
    record = ImageRecord(1, f"a.tar/b.jpg#{position}", 0, 0)
    with pytest.raises(ImageError) as error:
        read_record(root, record)
    assert error.value.reason == reason
    digest = "0" * 15 + "1"  # as a plan that somebody changed would say
    image = PlanImage(1, record.path, 31, 40, 700, digest)
    with pytest.raises(ImageError) as error:
        read_verified(root, image, fetch(root, {0: image})[0])
    assert error.value.reason == "changed"


def test_without_a_place_to_remember_everything_is_read_again(
    photos: Path, bucket: ObjectServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = upload(photos, "s3://tests/photos")
    (tmp_path / "user-cache").write_text("in the way")
    with caplog.at_level(logging.WARNING, logger="svp"):
        assert len(read_folder(root).images) == 9
    assert "s3://tests/photos: what is read of it is not remembered" in caplog.text


def test_a_damaged_memory_is_no_obstacle(bucket: ObjectServer, tmp_path: Path) -> None:
    root, stat = Path("s3://tests/photos"), Stat(5, "tag")
    seen = SeenPhotos(root)
    seen.put(HEADER, [("a.jpg", stat, [1, 2])])
    assert SeenPhotos(root).get(HEADER, {"a.jpg": stat, "b.jpg": stat}) == {"a.jpg": [1, 2]}
    assert SeenPhotos(root).get(HEADER, {"a.jpg": Stat(5, "other")}) == {}
    (database,) = (tmp_path / "user-cache" / "svp" / "photographs").iterdir()
    database.write_bytes(b"no database" * 1000)
    assert SeenPhotos(root).get(HEADER, {"a.jpg": stat}) == {}


def test_a_folder_is_not_listed() -> None:
    assert listing(Path("some/folder")) == {}
