"""Photographs in tar archives: listed by their headers, read in place, the same as files."""

import io
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from svp.pipeline.cache.plan import PlanImage
from svp.pipeline.datasets import open_dataset
from svp.pipeline.datasets.image_folder import path_id, read_folder
from svp.pipeline.datasets.images import image_header, read_record
from svp.pipeline.datasets.listing import list_archive, list_images
from svp.pipeline.datasets.photo_files import photo_file, place_of
from svp.pipeline.datasets.validate import check
from svp.pipeline.errors import DataError, ImageError
from svp.pipeline.precompute.source_images import hash_image, photo_size, read_verified
from svp.pipeline.records import ImageRecord


def photograph(path: Path, seed: int, kind: str = "JPEG") -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (30 + seed, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, kind)
    return path.read_bytes()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six photographs and their annotations, as files."""
    for i in range(6):
        photograph(tmp_path / "files" / f"sa_{i}.jpg", i)
        (tmp_path / "files" / f"sa_{i}.json").write_text("{}")
    return tmp_path / "files"


def pack(archive: Path, folder: Path, names: Sequence[str] | None = None) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w") as tar:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and (names is None or path.name in names):
                tar.add(path, f"./{path.relative_to(folder)}")
    return archive


def records(root: Path) -> list[ImageRecord]:
    return [
        ImageRecord(i.image_id, i.file_name, i.height, i.width) for i in read_folder(root).images
    ]


def test_members_are_read_as_the_files_are(photos: Path, tmp_path: Path) -> None:
    pack(tmp_path / "packed" / "part" / "sa_000.tar", photos)
    found = records(tmp_path / "packed")
    assert len(found) == 6
    files = {record.path: record for record in records(photos)}
    for record in found:
        name = place_of(record.path)
        assert name.startswith("part/sa_000.tar/") and record.image_id == path_id(name)
        file = files[name.removeprefix("part/sa_000.tar/")]
        assert (record.height, record.width) == (file.height, file.width)
        packed = tmp_path / "packed"
        assert np.array_equal(read_record(packed, record), read_record(photos, file))
        assert hash_image(packed, record) == hash_image(photos, file)
        assert photo_size(packed, record) == photo_size(photos, file) > 0
        photo = photo_file(packed, record.path, "image")
        assert image_header(photo) == image_header(photos / file.path)


def test_the_folder_says_what_it_reads(photos: Path, tmp_path: Path) -> None:
    for number in range(2):
        names = [f"sa_{i}.jpg" for i in range(6) if i % 2 == number] + ["sa_0.json"]
        pack(tmp_path / "packed" / f"sa_{number}.tar", photos, names)
    shutil.copy(photos / "sa_5.jpg", tmp_path / "packed" / "loose.jpg")
    pack(tmp_path / "packed" / "texts.tar", photos, ["sa_0.json"])
    found = read_folder(tmp_path / "packed")
    assert len(found.images) == 7
    assert found.notices[0] == "skipped: 1 file not JPEG, PNG or WEBP: 1 .tar"
    assert "read in place: 6 photographs in 2 tar files (first: 'sa_0.tar')" in found.notices


@pytest.mark.parametrize("where", ["file", "folder"])
def test_one_archive_is_a_data_set(photos: Path, tmp_path: Path, where: str) -> None:
    archive = pack(tmp_path / "packed" / "sa_0.tar", photos)
    pack(tmp_path / "packed" / "sa_1.tar", photos)
    source = open_dataset(archive if where == "file" else archive.parent)
    assert len(source.images) == (6 if where == "file" else 12)
    for record in source.images:
        assert read_record(source.image_root, record).shape == (record.height, record.width, 3)


def test_ids_do_not_depend_on_the_place_in_the_archive(photos: Path, tmp_path: Path) -> None:
    first = pack(tmp_path / "a" / "x.tar", photos)
    (photos / "aaa.txt").write_text("moves all that follow")
    second = pack(tmp_path / "b" / "x.tar", photos)
    before, after = records(first.parent), records(second.parent)
    assert {r.image_id for r in before} == {r.image_id for r in after}
    assert not {r.path for r in before} & {r.path for r in after}


def test_of_equal_names_the_last_counts(photos: Path, tmp_path: Path) -> None:
    archive = pack(tmp_path / "packed" / "x.tar", photos, ["sa_0.jpg"])
    new = photograph(photos / "sa_0.jpg", 9)
    with tarfile.open(archive, "a") as tar:
        tar.add(photos / "sa_0.jpg", "sa_0.jpg")
    (record,) = records(archive.parent)
    with photo_file(archive.parent, record.path, "image").open() as file:
        assert file.read() == new


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_forms_and_long_names(photos: Path, tmp_path: Path, form: int) -> None:
    long = "/".join(["folder" * 8] * 4) + "/phöto.png" if form != tarfile.USTAR_FORMAT else "a.png"
    photograph(photos / "x.png", 3, "PNG")
    (tmp_path / "packed").mkdir()
    with tarfile.open(tmp_path / "packed" / "x.tar", "w", format=form) as tar:
        tar.add(photos / "x.png", long)
    (record,) = records(tmp_path / "packed")
    assert place_of(record.path) == f"x.tar/{long}"
    assert read_record(tmp_path / "packed", record).shape == (33, 40, 3)


def damage(archive: Path, kind: str) -> None:
    data = bytearray(archive.read_bytes())
    with tarfile.open(archive) as tar:
        places = [(member.name, member.offset, member.offset_data) for member in tar]
    header = next(offset for name, offset, _ in places if name.endswith("sa_3.jpg"))
    body = next(first for name, _, first in places if name.endswith("sa_3.jpg"))
    match kind:
        case "header":
            data[header : header + 512] = bytes([7]) * 512
        case "cut in a member":
            del data[body + 100 :]
        case "cut between":
            del data[header:]
        case "cut in a header":
            del data[header + 200 :]
    archive.write_bytes(data)


@pytest.mark.parametrize("kind", ["header", "cut in a member", "cut between", "cut in a header"])
def test_what_a_damaged_archive_lost_is_said(photos: Path, tmp_path: Path, kind: str) -> None:
    """`tarfile` ends a listing at a damaged header as if the archive ended there."""
    archive = pack(tmp_path / "packed" / "x.tar", photos)
    damage(archive, kind)
    found = list_images(archive.parent)
    assert [place_of(name) for name in found.names] == [f"x.tar/sa_{i}.jpg" for i in range(3)]
    assert any(
        line.startswith("tar file 'x.tar': ") and line.endswith("3 photographs before it are used")
        for line in found.notices()
    )


def test_what_is_no_archive_is_said(tmp_path: Path) -> None:
    photograph(tmp_path / "a.jpg", 1)
    (tmp_path / "x.tar").write_bytes(b"no archive" * 100)
    (tmp_path / "empty.tar").write_bytes(b"")
    found = list_images(tmp_path)
    assert found.names == ["a.jpg"]
    assert [name for name, _, _ in found.damaged] == ["empty.tar", "x.tar"]
    assert list_archive(tmp_path / "x.tar").names == []


def test_hostile_members_are_not_photographs(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    data = (photos / "sa_0.jpg").read_bytes()
    with tarfile.open(tmp_path / "packed" / "x.tar", "w") as tar:
        for name in ("../out.jpg", "/etc/out.jpg", "a/../../out.jpg", "a\\b.jpg", "good.jpg"):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo(f"link{kind!r}.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    found = list_images(tmp_path / "packed")
    assert [place_of(name) for name in found.names] == ["x.tar/good.jpg"]
    assert "skipped: 4 members of tar files with unsafe names" in found.notices()


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def archive_of(path: Path, *members: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(members) + bytes(1024))
    return path


def test_links_within_an_archive_are_the_photographs_they_name(
    photos: Path, tmp_path: Path
) -> None:
    data = (photos / "sa_0.jpg").read_bytes()
    hard, soft = tarfile.LNKTYPE, tarfile.SYMTYPE
    archive = archive_of(
        tmp_path / "packed" / "x.tar",
        member("./d/a.jpg", data), member("./d/hard.jpg", b"", hard, "./d/a.jpg"),
        member("d/soft.jpg", b"", soft, "a.jpg"), member("e/up.jpg", b"", soft, "../d/a.jpg"),
        member("out.jpg", b"", soft, "../../files/sa_0.jpg"), member("abs.jpg", b"", soft, "/d/a.jpg"),
        member("self.jpg", b"", soft, "self.jpg"), member("none.jpg", b"", hard, "d/b.jpg"),
    )  # fmt: skip
    found = read_folder(archive.parent)
    names = {place_of(image.file_name) for image in found.images}
    assert names == {f"x.tar/{n}.jpg" for n in ("d/a", "d/hard", "d/soft", "e/up")}
    for image in found.images:
        with photo_file(archive.parent, image.file_name, "image").open() as file:
            assert file.read() == data
    assert "skipped: 4 members of these not JPEG, PNG or WEBP, or hidden" in found.notices


def test_of_equal_names_the_last_counts_whatever_it_is(photos: Path, tmp_path: Path) -> None:
    data, soft = (photos / "sa_0.jpg").read_bytes(), tarfile.SYMTYPE
    archive_of(
        tmp_path / "x.tar", member("a.jpg", data), member("b.jpg", data), member("c.jpg", data),
        member("a.jpg"), member("./b.jpg", b"text"), member("c.jpg", b"", soft, "/c.jpg"),
        member("d.jpg", b"", soft, "e.jpg"), member("e.jpg", data),
    )  # fmt: skip
    names = {place_of(name) for name in list_archive(tmp_path / "x.tar").names}
    assert names == {"x.tar/d.jpg", "x.tar/e.jpg"}


def test_hidden_members_are_skipped_as_hidden_files_are(photos: Path, tmp_path: Path) -> None:
    data = (photos / "sa_0.jpg").read_bytes()
    names = (".git/a.jpg", "b/.c/d.jpg", ".e.jpg", "__MACOSX/._f.jpg", "././g.jpg")
    archive = archive_of(tmp_path / "x.tar", *(member(name, data) for name in names))
    assert [place_of(name) for name in list_archive(archive).names] == ["x.tar/./g.jpg"]


def test_folders_may_be_called_tar_around_an_archive(photos: Path, tmp_path: Path) -> None:
    data = (photos / "sa_0.jpg").read_bytes()
    root = tmp_path / "packed"
    archive_of(root / "a.tar" / "b.tar" / "c.tar", member("d.tar/e.jpg", data))
    (record,) = records(root)
    assert place_of(record.path) == "a.tar/b.tar/c.tar/d.tar/e.jpg"
    with photo_file(root, record.path, "image").open() as file:
        assert file.read() == data


@pytest.mark.parametrize("size", [-1, -512, -1024, -(1 << 40)])
def test_a_member_of_negative_size_ends_the_listing(
    photos: Path, tmp_path: Path, size: int
) -> None:
    """The next header would be that one again or an earlier one, and so on without end."""
    header = bytearray(member("bad.jpg"))
    header[124:136] = b"\xff" + (size % (1 << 88)).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    good = member("good.jpg", (photos / "sa_0.jpg").read_bytes())
    archive = archive_of(tmp_path / "x.tar", good, bytes(header), member("lost.jpg"))
    found = list_archive(archive)
    assert [place_of(name) for name in found.names] == ["x.tar/good.jpg"]
    (notice,) = [line for line in found.notices() if line.startswith("tar file")]
    assert notice.startswith(f"tar file 'x.tar': damaged at byte {len(good)}: what follows is lost")


@pytest.mark.parametrize("form", ["gz", "bz2", "xz"])
def test_a_compressed_archive_is_named_with_the_remedy(
    photos: Path, tmp_path: Path, form: str
) -> None:
    with tarfile.open(tmp_path / "x.tar", f"w:{form}") as tar:  # type: ignore[call-overload]
        tar.add(photos / "sa_0.jpg", "a.jpg")
    found = list_archive(tmp_path / "x.tar")
    assert any(
        line
        == "tar file 'x.tar': compressed: decompress it, so that members can be read in place: "
        "nothing in it is used"
        for line in found.notices()
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [("x.tar/sa_0.jpg#999999999,100", "truncated"), ("x.tar/sa_0.jpg#512,999999999", "truncated"),
     ("x.tar/sa_0.jpg#512,99999999", "truncated"), ("x.tar/sa_0.jpg#0,512", "not-an-image"),
     ("x.tar/sa_0.jpg#512,0", "empty"), ("y.tar/sa_0.jpg#512,100", "missing"),
     ("x.tar/../sa_0.jpg#512,100", "unsafe-path"), ("../files/x.tar/a.jpg#512,100", "unsafe-path"),
     ("x.tar/sa_0.jpg", "missing")],
)  # fmt: skip
def test_a_position_that_is_wrong_is_a_quarantine_reason(
    photos: Path, tmp_path: Path, name: str, reason: str
) -> None:
    """Positions come from data files, too: none reads outside the archive."""
    archive = pack(tmp_path / "packed" / "x.tar", photos)
    with pytest.raises(ImageError) as found:
        read_record(archive.parent, ImageRecord(1, name, 0, 0))
    assert found.value.reason == reason
    if reason == "unsafe-path":
        with pytest.raises(DataError):
            photo_file(archive.parent, name, "image")


def test_a_link_to_an_archive_elsewhere_is_followed(photos: Path, tmp_path: Path) -> None:
    archive = pack(tmp_path / "disk" / "x.tar", photos)
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "linked.tar").symlink_to(archive)
    found = read_folder(tmp_path / "packed")
    assert {image.image_id for image in found.images} == {
        path_id(f"linked.tar/sa_{i}.jpg") for i in range(6)
    }
    for image in found.images:
        record = ImageRecord(image.image_id, image.file_name, image.height, image.width)
        assert read_record(found.root, record).shape[1] == 40


def test_a_real_folder_called_tar_stays_a_folder(tmp_path: Path) -> None:
    photograph(tmp_path / "x.tar" / "a.jpg#1,2.jpg", 1)
    photograph(tmp_path / "x.tar" / "b.jpg#1,2", 2)
    found = records(tmp_path)
    assert {record.path for record in found} == {"x.tar/a.jpg#1,2.jpg", "x.tar/b.jpg#1,2"}
    for record in found:
        assert read_record(tmp_path, record).shape == (record.height, 40, 3)


def test_a_member_that_was_changed_is_refused(photos: Path, tmp_path: Path) -> None:
    archive = pack(tmp_path / "packed" / "x.tar", photos)
    record = records(archive.parent)[0]
    size, digest = hash_image(archive.parent, record)
    planned = PlanImage(
        record.image_id, record.path, record.height, record.width, size, digest
    )  # fmt: skip
    assert read_verified(archive.parent, planned).shape == (record.height, 40, 3)
    data = bytearray(archive.read_bytes())
    data[photo_file(archive.parent, record.path, "image").first + size // 2] ^= 1
    archive.write_bytes(data)
    with pytest.raises(ImageError) as found:
        read_verified(archive.parent, planned)
    assert found.value.reason == "changed"


def test_data_check_reads_them(photos: Path, tmp_path: Path) -> None:
    photograph(photos / "sa_6.jpg", 6, "PNG")
    archive = pack(tmp_path / "packed" / "x.tar", photos)
    report = check(archive.parent)
    assert report.exit_code == 0, report.lines()
    assert report.groups["images"]["good"] == 7
    assert report.groups["images"]["mislabelled (read by content)"] == 1
