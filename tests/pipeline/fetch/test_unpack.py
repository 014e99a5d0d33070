"""Hostile archives: refused whole, with nothing written."""

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from svp.pipeline.errors import DataError
from svp.pipeline.fetch.unpack import unpack


def make_zip(path: Path, members: dict[str, bytes], mode: int = 0) -> Path:
    with zipfile.ZipFile(path, "w") as made:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            made.writestr(info, data)
    return path


def make_tar(path: Path, name: str, kind: bytes, link: str = "") -> Path:
    with tarfile.open(path, "w:gz") as made:
        good = tarfile.TarInfo("good.txt")
        good.size = 2
        made.addfile(good, io.BytesIO(b"ok"))
        bad = tarfile.TarInfo(name)
        bad.type, bad.linkname = kind, link
        made.addfile(bad, io.BytesIO(b""))
    return path


def test_zip_and_tar_unpack(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"d/": b"", "d/e/x.txt": b"xx", "y": b""})
    assert unpack(archive, tmp_path / "out") == [tmp_path / "out/d/e/x.txt", tmp_path / "out/y"]
    assert (tmp_path / "out/d/e/x.txt").read_bytes() == b"xx"
    tar = make_tar(tmp_path / "a.tgz", "sub", tarfile.DIRTYPE)
    assert unpack(tar, tmp_path / "tar") == [tmp_path / "tar/good.txt"]
    assert (tmp_path / "tar/sub").is_dir()


def test_a_second_run_heals_and_rewrites_nothing(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"x": b"xx", "y": b"yy"})
    unpack(archive, tmp_path / "out")
    (tmp_path / "out/y").unlink()
    before = (tmp_path / "out/x").stat().st_mtime_ns
    unpack(archive, tmp_path / "out")
    assert (tmp_path / "out/y").read_bytes() == b"yy"
    assert (tmp_path / "out/x").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/../../x",
        "/etc/x",
        "C:\\x",
        "C:x",
        "a\\..\\x",
        "a\nb",
        "\x1b[2J",
        "./../x",
        "//h/x",
    ],
)
def test_names_that_leave_the_folder(tmp_path: Path, name: str) -> None:
    archive = make_zip(tmp_path / "a.zip", {"good.txt": b"ok", name: b"bad"})
    with pytest.raises(DataError, match="nothing written") as caught:
        unpack(archive, tmp_path / "out")
    assert "\x1b" not in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFCHR | 0o666, stat.S_IFIFO])
def test_zip_links_and_devices(tmp_path: Path, mode: int) -> None:
    archive = make_zip(tmp_path / "a.zip", {"link": b"/etc/passwd"}, mode)
    with pytest.raises(DataError, match="link, device"):
        unpack(archive, tmp_path / "out")


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_tar_links_and_devices(tmp_path: Path, kind: bytes) -> None:
    archive = make_tar(tmp_path / "a.tgz", "inner", kind, "good.txt")
    with pytest.raises(DataError, match="link, device"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tar_name_outside(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a.tgz", "../x", tarfile.REGTYPE)
    with pytest.raises(DataError, match="leave the folder"):
        unpack(archive, tmp_path / "out")


def test_bombs(tmp_path: Path) -> None:
    bomb = make_zip(tmp_path / "bomb.zip", {"zeros": bytes(10_000_000)})
    assert bomb.stat().st_size < 20_000
    with pytest.raises(DataError, match="10000000 bytes; at most 1000000"):
        unpack(bomb, tmp_path / "out", max_bytes=1_000_000)
    many = make_zip(tmp_path / "many.zip", {f"{i}": b"" for i in range(11)})
    with pytest.raises(DataError, match="10 members"):
        unpack(many, tmp_path / "out", max_files=10)
    assert not (tmp_path / "out").exists()


def test_member_longer_than_it_says(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"x": b"a" * 1000})
    data = archive.read_bytes()
    at = data.rindex(b"PK\x01\x02") + 24  # uncompressed size in the central directory
    archive.write_bytes(data[:at] + (10).to_bytes(4, "little") + data[at + 4 :])
    with pytest.raises(DataError):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out/x").exists()


def test_duplicate_and_file_as_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as made:
        made.writestr("x", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            made.writestr("x", b"2")
    with pytest.raises(DataError, match="appears twice"):
        unpack(tmp_path / "twice.zip", tmp_path / "out")
    archive = make_zip(tmp_path / "a.zip", {"x": b"1", "x/y": b"2"})
    with pytest.raises(DataError, match="below a file"):
        unpack(archive, tmp_path / "out")


def test_a_link_already_in_the_destination_is_not_followed(tmp_path: Path) -> None:
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir()
    out.mkdir()
    (out / "d").symlink_to(elsewhere)
    archive = make_zip(tmp_path / "a.zip", {"d/x": b"1"})
    with pytest.raises(DataError, match="through a link"):
        unpack(archive, out)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 nonsense", b"\x1f\x8b\x08\x00 nonsense"])
def test_not_an_archive(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match="not a readable zip or tar"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_truncated_archives(tmp_path: Path) -> None:
    for archive in (
        make_zip(tmp_path / "a.zip", {"x": bytes(5000)}),
        make_tar(tmp_path / "a.tgz", "y", tarfile.REGTYPE),
    ):
        archive.write_bytes(archive.read_bytes()[:-30])
        with pytest.raises(DataError, match="not a readable"):
            unpack(archive, tmp_path / "out")
