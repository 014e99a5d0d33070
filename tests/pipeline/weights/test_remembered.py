"""A weight file is read once, by whichever process comes first, and again when it has changed."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from svp.pipeline.weights import digests
from svp.pipeline.weights import digests as remembered
from svp.pipeline.weights.load import sha256_file, weights_digest


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SVP_REHASH", raising=False)
    forget(monkeypatch)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a new process begins."""
    monkeypatch.setattr(digests, "_CACHE", {})


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read to be hashed."""
    found: list[str] = []
    real = digests._sha256

    def counted(path: Path) -> str:
        found.append(path.name)
        return real(path)

    monkeypatch.setattr(digests, "_sha256", counted)
    return found


def old(path: Path, content: bytes, age: float = 100.0) -> Path:
    """A file last written `age` seconds ago."""
    path.write_bytes(content)
    at = time.time_ns() - int(age * 1e9)
    os.utime(path, ns=(at, at))
    return path


def test_one_reading_for_all_processes(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    index = {"weight_map": {"a": "s-1.bin", "b": "s-2.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    for number in (1, 2):
        old(folder / f"s-{number}.bin", bytes([number]) * 1000)
    first = weights_digest(folder)
    assert sorted(reads) == ["s-1.bin", "s-2.bin"]
    assert weights_digest(folder) == first
    forget(monkeypatch)
    assert weights_digest(folder) == first, "another process"
    assert len(reads) == 2
    link = tmp_path / "link"
    link.symlink_to(folder)
    forget(monkeypatch)
    assert weights_digest(link) == first
    assert len(reads) == 2, "a link to the same files is not read"
    monkeypatch.setenv("SVP_REHASH", "1")
    forget(monkeypatch)
    assert weights_digest(folder) == first
    assert len(reads) == 4


def test_a_real_second_process_does_not_read(tmp_path: Path) -> None:
    """The file is made unreadable: only what is remembered can answer."""
    path = old(tmp_path / "w.bin", b"weights")
    want = sha256_file(path)
    code = (
        "import builtins, sys; from svp.pipeline.weights import digests\n"
        "def never(path): raise AssertionError('read')\n"
        "digests._sha256 = never\n"
        "from pathlib import Path; print(digests.sha256_file(Path(sys.argv[1])))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == want == hashlib.sha256(b"weights").hexdigest()


def test_changed_files_are_read_again(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = old(tmp_path / "w.bin", b"one")
    stamp = path.stat().st_mtime_ns
    first = sha256_file(path)
    old(path, b"two", age=50.0)
    assert sha256_file(path) == hashlib.sha256(b"two").hexdigest() != first
    time.sleep(0.05)  # beyond a tick of the file system's clock
    path.write_bytes(b"six")
    os.utime(path, ns=(stamp, stamp))  # size and modification time of the first content
    assert sha256_file(path) == hashlib.sha256(b"six").hexdigest()
    assert len(reads) == 3


def test_what_was_just_written_is_remembered_for_nobody_else(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.bin"
    path.write_bytes(b"a")
    sha256_file(path)
    forget(monkeypatch)
    sha256_file(path)
    assert len(reads) == 2
    assert not remembered.memory_file().exists()
    ahead = time.time_ns() + 10**12
    os.utime(path, ns=(ahead, ahead))  # a clock that goes wrong
    for _ in range(2):
        forget(monkeypatch)
        sha256_file(path)
    assert len(reads) == 4
    found = remembered.stamp(path.stat())
    remembered.remember(str(path), found, "a" * 64)
    assert remembered.recall(str(path), found) is None, "noted by somebody else"


def test_damage_and_many_writers(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = remembered.memory_file()
    place.parent.mkdir(parents=True)
    path = old(tmp_path / "w.bin", b"w")
    size, mtime, ctime = remembered.stamp(path.stat())
    bad = [
        b"\xff\xfe", b"[]", b"{}", b"null", b'["x", 1]', b"[" * 2000,
        json.dumps([str(path), size, mtime, ctime, "short"]).encode(),
        json.dumps([str(path), True, mtime, ctime, "0" * 64]).encode(),
    ]  # fmt: skip
    place.write_bytes(b"\n".join(bad))
    code = (
        "import sys; from svp.pipeline.weights.digests import remember\n"
        "for n in range(200): remember(f'/{sys.argv[1]}/{n}', (1, 2, 3), 'a' * 64)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(w)]) for w in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    known = remembered._read()
    assert sum(name.count("/") == 2 for name in known) >= 599, "the first may follow a broken line"
    assert sha256_file(path) == hashlib.sha256(b"w").hexdigest()
    forget(monkeypatch)
    sha256_file(path)
    assert reads == ["w.bin"]


def test_the_file_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MAX_BYTES", 2000)
    path = old(tmp_path / "w.bin", b"w")
    for number in range(100):
        remembered.remember(f"/gone/{number}", (1, 2, 3), "a" * 64)
        remembered.remember(str(path), remembered.stamp(path.stat()), "b" * 64)
    assert remembered.memory_file().stat().st_size < 3000
    assert remembered.recall(str(path), remembered.stamp(path.stat())) == "b" * 64


def test_nowhere_to_write(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    path = old(tmp_path / "w.bin", b"w")
    assert sha256_file(path) == sha256_file(path)
    assert reads == ["w.bin"], "this process still remembers"
