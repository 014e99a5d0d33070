"""File names out of data files: the published list of attacks, and names that must work."""

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svp.pipeline.errors import DataError
from svp.pipeline.paths import check_name, safe_join

HOSTILE = {
    "../x.jpg": "..",
    "a/../../x.jpg": "..",
    "/etc/passwd": "absolute",
    "C:\\x.jpg": "backslash",
    "C:x.jpg": "drive letter",
    "\\\\host\\s\\x.jpg": "backslash",
    "//host/s/x.jpg": "absolute",
    "..\\x.jpg": "backslash",
    "a\0.jpg": "control character",
    "a\x1b[31m.jpg": "control character",
    "a\n.jpg": "control character",
    "\udce9.jpg": "control character",
    "": "empty",
    ".": "names no file",
    "folder/": "names no file",
    "a/b/../../../x.jpg": "..",
    "a/..": "..",
    "file:///etc/passwd": "URL scheme",
    "http://host/x.jpg": "URL scheme",
    "~/x.jpg": "starts with ~",
    "/dev/zero": "absolute",
    "a" * 4097: "longer than 4096",
}


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name[:20]))
def test_hostile_names_are_refused_with_record_and_rule(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="image 12: file name.*refused") as caught:
        safe_join(tmp_path, name, "image 12")
    message = str(caught.value)
    assert HOSTILE[name] in message
    assert message.isprintable() and len(message) < 300


@pytest.mark.parametrize("name", [None, 3, b"x.jpg", ["x.jpg"]])
def test_a_name_must_be_a_string(name: object) -> None:
    with pytest.raises(DataError, match="is not a string"):
        check_name(name, "image 1")


@pytest.mark.parametrize(
    "name", ["a.jpg", "sub/a b.jpg", "./a.jpg", "..a.jpg", "é/日本.jpg", "a..b"]
)
def test_good_names_are_joined(name: str, tmp_path: Path) -> None:
    target = tmp_path / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(b"x")
    assert safe_join(tmp_path, name, "image 1").samefile(target)


def test_a_missing_file_is_left_to_the_reader(tmp_path: Path) -> None:
    assert safe_join(tmp_path, "none/x.jpg", "image 1") == tmp_path.resolve() / "none/x.jpg"


def test_links_may_not_lead_outside(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"x")
    (root / "leak.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "passwd").symlink_to("/etc/passwd")
    (root / "up").symlink_to(tmp_path)
    for name in ("leak.jpg", "passwd", "up/secret.jpg"):
        with pytest.raises(DataError, match="outside the folder by a link"):
            safe_join(root, name, "image 1")


def test_the_root_and_links_inside_it_may_be_links(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (real / "a.jpg").write_bytes(b"x")
    (real / "b.jpg").symlink_to("a.jpg")
    (tmp_path / "root").symlink_to(real)
    assert safe_join(tmp_path / "root", "b.jpg", "image 1") == real.resolve() / "a.jpg"


def test_a_sibling_with_the_same_prefix_is_outside(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root-2").mkdir()
    (tmp_path / "root-2" / "x.jpg").write_bytes(b"x")
    (tmp_path / "root" / "x.jpg").symlink_to(tmp_path / "root-2" / "x.jpg")
    with pytest.raises(DataError, match="outside"):
        safe_join(tmp_path / "root", "x.jpg", "image 1")


def test_only_regular_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    monkeypatch.chdir(tmp_path)  # socket names are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jpg")
        for name in ("folder.jpg", "pipe.jpg", "socket.jpg"):
            with pytest.raises(DataError, match="not a regular file"):
                safe_join(tmp_path, name, "image 1")


def test_a_loop_of_links_is_refused_or_missing(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to("b.jpg")
    (tmp_path / "b.jpg").symlink_to("a.jpg")
    with pytest.raises(DataError, match="cannot be examined"):
        safe_join(tmp_path, "a.jpg", "image 1")


@given(st.text(max_size=40))
def test_whatever_passes_stays_below_the_root(name: str) -> None:
    try:
        check_name(name, "image 1")
    except DataError:
        return
    joined = os.path.normpath(os.path.join("/photos", name))
    assert joined.startswith("/photos/")
