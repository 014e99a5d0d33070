"""File names out of data files: the published list of attacks, and names that must work."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import svp
from svp.pipeline.errors import DataError
from svp.pipeline.io.paths import check_name, expand, safe_join, user_cache

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


HOMELESS = """
import os, pwd, sys
for name in ("HOME", "XDG_CACHE_HOME", "SVP_WEIGHTS", "HF_HOME"):
    os.environ.pop(name, None)
def nobody(*_):
    raise KeyError("no such user")
pwd.getpwuid = pwd.getpwnam = nobody
from svp.cli import main
sys.argv = ["svp", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize(
    "words",
    [
        ("doctor", "--size", "paper"),
        ("precompute", "--size", "paper", "--dataset", ".", "--dry-run"),
        ("precompute", "--sam-weights", "~/sam.pth", "--dataset", ".", "--dry-run"),
        ("train", "--size", "paper", "--init", "~/GLaMM", "--dry-run"),
        ("train", "--size", "paper", "--init", "hub:a/b", "--from-cache", "none"),
        ("eval", "--checkpoint", "~/run"),
        ("predict", "none.jpg", "a cup", "--published", "~nobody/GLaMM"),
    ],
    ids=" ".join,
)
def test_a_user_without_a_home_gets_no_traceback(words: tuple[str, ...], tmp_path: Path) -> None:
    """No HOME and no passwd entry, as in containers started with --user."""
    made = subprocess.run(
        [sys.executable, "-c", HOMELESS, *words],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in made.stderr, made.stderr
    assert made.returncode in (0, 1, 2, 3), made.stderr


def test_homes_are_looked_up_in_one_place() -> None:
    """`Path.home` and `Path.expanduser` raise where there is none."""
    root = Path(svp.__file__).parent
    for path in (
        p for d in ("pipeline", "model", "train", "integrations") for p in (root / d).rglob("*.py")
    ):
        text = path.read_text("utf-8")
        assert ".expanduser()" not in text and "Path.home" not in text, path


def test_where_the_users_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert user_cache() == Path("/home/me/.cache") and expand("~/a") == Path("/home/me/a")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    assert user_cache() is None and expand("~/a") == Path("~/a")
