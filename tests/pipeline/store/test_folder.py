"""Store in a folder: durability, crashes, file systems without links, what is no file of ours."""

import ctypes
import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from svp.pipeline.errors import CacheError, MissingError
from svp.pipeline.io.atomic import STAGES
from svp.pipeline.store import OtherBytesError, folder, open_store
from svp.pipeline.store.folder import FolderStore

WRITE = """
import sys
from svp.pipeline.store import open_store
open_store(sys.argv[1]).create("dino/c/0/0", [b"row", b"crc"], label="dino", shard=0)
"""


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    found = open_store(tmp_path / "store")
    assert isinstance(found, FolderStore)
    return found


def temps(store: FolderStore) -> list[str]:
    return [path.name for path in store.top.rglob("*.partial") if path.is_file()]


@pytest.mark.parametrize("stage", STAGES)
def test_killed_anywhere_a_file_is_whole_or_absent(store: FolderStore, stage: str) -> None:
    env = {**os.environ, "SVP_CRASH_AT": f"dino:{stage}@0"}
    killed = subprocess.run([sys.executable, "-c", WRITE, store.root], env=env, check=False)
    assert killed.returncode == -signal.SIGKILL
    if stage == "after-rename":
        assert store.read("dino/c/0/0", 10) == b"rowcrc"
    else:
        with pytest.raises(MissingError):
            store.stat("dino/c/0/0")
    left = temps(store)
    assert len(left) == (stage != "before-temp")
    assert {key for key, _ in store.sizes()} <= {"dino/c/0/0"}
    assert store.tidy() == len(left)
    assert temps(store) == [] and not (store.top / ".partial").exists()
    assert store.create("dino/c/0/0", [b"rowcrc"]).made == (stage != "after-rename")


def test_a_living_writer_keeps_its_temp_file(store: FolderStore) -> None:
    temp = store._temp(store.path("a"), [b"1"], "", None)
    assert store.tidy() == 0
    assert temp.commit_new()
    assert store.tidy() == 0 and not (store.top / ".partial").exists()


@pytest.mark.parametrize("call", ["open", "stat", "lstat", "mkdir"])
def test_another_process_may_tidy_between_any_two_calls(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    temps_folder, whole, calls = store.top / ".partial", getattr(os, call), 0

    def counted(*given: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == at and temps_folder.exists():
            calls = -100  # no more of this `create`
            os.rmdir(temps_folder)
            tidied.append(at)
        return whole(*given, **options)

    tidied: list[int] = []
    for at in range(1, 13):
        calls = 0
        temps_folder.mkdir(parents=True, exist_ok=True)
        with monkeypatch.context() as patch:
            patch.setattr(os, call, counted)
            made = store.create(f"{at}", [b"1"])
        assert made.made and store.read(f"{at}", 1) == b"1"
    assert tidied or call == "mkdir"


def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths in the order in which they are synced."""
    found: list[str] = []
    whole = os.fsync

    def fsync(fd: int) -> None:
        found.append(os.readlink(f"/proc/self/fd/{fd}"))
        whole(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    return found


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc here")
@pytest.mark.parametrize("again", [False, True], ids=["made", "same"])
def test_file_and_folders_are_durable_on_return(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """Also for the writer that finds the file: the other may have died before it synced."""
    if again:
        store.create("a/b/c", [b"1"])
        monkeypatch.setattr(folder, "_durable", set())  # as in another process
    found = synced(monkeypatch)
    store.create("a/b/c", [b"1"])
    assert (".partial/" in found[0] and not again) or (
        again and found[0] == str(store.root / "a/b/c")
    )
    assert [Path(name) for name in found[1:]] == [store.root / name for name in ("a/b", "a", "")]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc here")
def test_folders_that_were_deleted_are_made_durable_anew(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create("a/b/c", [b"1"])
    store.delete_below("a")
    found = synced(monkeypatch)
    store.create("a/b/c", [b"1"])
    assert [Path(name) for name in found[1:]] == [store.root / name for name in ("a/b", "a", "")]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc here")
def test_replacements_and_deletions_are_durable(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = synced(monkeypatch)
    store.replace("a/b", b"1")
    assert ".partial/" in found[0] and found[1] == str(store.root / "a")
    found.clear()
    store.delete("a/b")
    assert found == [str(store.root / "a")]


def no_links(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def link(*args: object, **options: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", link)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "renameat2"), reason="no renameat2 here")
@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_hard_links_a_rename_that_does_not_replace(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    no_links(monkeypatch, code)
    store.require_create()
    assert store.create("a/b", [b"1"]).made
    monkeypatch.setattr(store.__class__, "_there", lambda *_, seen=[]: seen.append(1) if not seen
                        else (1, "x", "other"))  # fmt: skip
    with pytest.raises(OtherBytesError):  # the file appears between the look and the rename
        store.create("a/b", [b"2"])
    assert store.read("a/b", 1) == b"1"
    assert temps(store) == []


def test_without_either_it_is_refused(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoLibrary:
        renameat2 = None

    no_links(monkeypatch, errno.EPERM)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: NoLibrary)
    for call in (store.require_create, lambda: store.create("a", [b"1"])):
        with pytest.raises(
            CacheError, match=r"neither hard links nor renames .*: give another path"
        ):
            call()
    assert list(store.sizes()) == [] and temps(store) == []


def test_another_file_system_below_is_refused(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_links(monkeypatch, errno.EXDEV)
    with pytest.raises(CacheError, match="a: cannot be written: it lies on another file system"):
        store.create("a", [b"1"])


def test_a_full_disk_leaves_nothing(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, buffers: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "writev", full)
    with pytest.raises(CacheError, match="a/b: No space left on device: .* free some space"):
        store.create("a/b", [b"1"])
    assert list(store.sizes()) == [] and temps(store) == []


def test_links_are_not_followed(store: FolderStore, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"secret")
    store.create("a/file", [b"1"])
    (store.root / "a" / "link").symlink_to(tmp_path / "outside" / "secret")
    (store.root / "way").symlink_to(tmp_path / "outside")
    (store.root / "dangling").symlink_to(tmp_path / "outside" / "new")
    calls: list[Callable[[str], object]] = [
        lambda key: store.read(key, 10),
        lambda key: store.tail(key, 1),
        lambda key: store.create(key, [b"2"]),
        lambda key: store.replace(key, b"2"),
        store.delete,
    ]
    for key in ("a/link", "way/secret", "way/new", "dangling", "dangling/new"):
        for call in calls:
            with pytest.raises(CacheError, match="a symbolic link inside the cache"):
                call(key)
    assert list(store.sizes()) == [("a/file", 1)]
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["secret"]
    above = tmp_path / "above"  # the folder that is opened may be a link
    above.symlink_to(store.root)
    assert open_store(above).read("a/file", 1) == b"1"


def test_what_is_no_file_is_refused(store: FolderStore) -> None:
    store.create("a/b", [b"1"])
    os.mkfifo(store.root / "pipe")
    with pytest.raises(CacheError, match="pipe: not a regular file"):
        store.read("pipe", 10)
    assert list(store.sizes()) == [("a/b", 1)]
    for call in (store.create, lambda key, parts: store.replace(key, b"".join(parts))):
        with pytest.raises(
            CacheError, match=re.escape(f"{store.where('a')}: cannot be written: Is a")
        ):
            call("a", [b"2"])
        with pytest.raises(CacheError, match="a/b: cannot be written: Not a directory"):
            call("a/b/c", [b"2"])


def test_a_file_system_without_attributes_forgets_the_maker_only(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "")

    monkeypatch.setattr(os, "setxattr", refuse)
    store.create("a", [b"1"], who="node1")
    with pytest.raises(OtherBytesError, match="by a writer that left no name, now .* by node2"):
        store.create("a", [b"2"], who="node2")
