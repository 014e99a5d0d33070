"""Atomic durable writes: temp file, fsync, rename, fsync of the folder.

A name in the cache either holds complete bytes or does not exist. Temp files end in `.partial` and
carry their writer's host and process, so that the leftovers of a dead writer can be told from the
work of a living one.

Fault injection for the tests: `SVP_CRASH_AT=<label>:<stage>` kills the process (SIGKILL) at that
point; `SVP_CRASH_AT=<label>:<stage>@<shard>` only in that shard. Stages are `STAGES`, in order;
labels are the array names, `log`, `manifest`, `plan`, `metadata`, `column`, `index`, `complete`.
"""

import ctypes
import errno
import os
import platform
import re
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import xxhash

from ..display import show
from ..errors import CacheError, SvpError
from .binary import write_all
from .paths import refuse_links

STAGES = ("before-temp", "after-temp", "before-rename", "after-rename")
PARTIAL = ".partial"
FOREIGN_TEMP_AGE = 24 * 3600.0  # seconds; another host's temp file this old has no writer left

_AT_FDCWD, _RENAME_NOREPLACE = -100, 1
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}

_serial = count()
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def crash_point(label: str, stage: str, shard: int | None = None) -> None:
    """Kill this process if the environment names this point (tests of crash safety)."""
    wanted = os.environ.get("SVP_CRASH_AT")
    if wanted and wanted in (f"{label}:{stage}", f"{label}:{stage}@{shard}"):
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class TempFile:
    """A written but not yet durable file: `commit` or `commit_new` gives it its name.

    `discard` drops it.
    """

    path: Path
    temp: Path
    fd: int
    label: str
    shard: int | None
    bytes: int = 0
    xxh3: str = ""

    def commit(self) -> None:
        """fsync and rename; durable once the folder is synced. Raises CacheError, temp removed."""
        try:
            crash_point(self.label, "after-temp", self.shard)
            os.fsync(self.fd)
            crash_point(self.label, "before-rename", self.shard)
            os.replace(self.temp, self.path)
            crash_point(self.label, "after-rename", self.shard)
        except OSError as error:
            raise refusal(error, self.path) from error
        finally:
            self.discard()

    def commit_new(self) -> bool:
        """`commit` that never replaces a file: False if the name is taken. The temp is removed."""
        try:
            crash_point(self.label, "after-temp", self.shard)
            os.fsync(self.fd)
            crash_point(self.label, "before-rename", self.shard)
            taken = not _name_new(self.temp, self.path)
            crash_point(self.label, "after-rename", self.shard)
        except OSError as error:
            raise refusal(error, self.path) from error
        finally:
            self.discard()
        return not taken

    def discard(self) -> None:
        """Close and remove the temp file if it is still there. Safe to repeat."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
            self.temp.unlink(missing_ok=True)


def write_temp(
    path: Path,
    buffers: Sequence[bytes | memoryview],
    *,
    label: str,
    shard: int | None = None,
    folder: Path | None = None,
) -> TempFile:
    """`buffers`, one after another, in a temp file in `folder`, None: beside `path`.

    The folder must exist. Raises CacheError if the disk is full or refuses; the temp file is
    removed.
    """
    name = f"{path.name}.{writer_id()}-{next(_serial)}{PARTIAL}"
    temp = (folder or path.parent) / name
    crash_point(label, "before-temp", shard)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        file = TempFile(path, temp, os.open(temp, flags, 0o644), label, shard)
    except OSError as error:
        raise refusal(error, path) from error
    try:
        file.bytes, file.xxh3 = _write_and_digest(file.fd, buffers)
    except OSError as error:
        file.discard()
        raise refusal(error, path) from error
    except BaseException:
        file.discard()
        raise
    return file


def sync_folders(folders: Iterable[Path]) -> None:
    """fsync folders, so that the names in them survive a power loss."""
    for folder in folders:
        sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """fsync one folder. Raises CacheError."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise refusal(error, folder) from error


def make_folder(folder: Path, root: Path) -> None:
    """Create `folder` under `root`; a symbolic link on the way out of `root` is refused."""
    refuse_links(root, folder)
    make_folders(folder)


def make_folders(folder: Path) -> None:
    """Create `folder` and what is above it, where the user wants output. Raises CacheError."""
    check_writable(folder)  # `mkdir` calls a file in the way by other names
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the body into a CacheError: the path, the cause, the remedy.

    path  named where the system names none; the body reads nothing that may fail
    """
    try:
        yield
    except SvpError:  # some are OSErrors too, and say more
        raise
    except OSError as error:
        named = error.filename if isinstance(error.filename, str | os.PathLike) else path
        raise refusal(error, Path(named)) from error


def check_writable(path: Path, *, file: bool = False) -> None:
    """Raise CacheError if `path` cannot be written, before the work is done; creates nothing.

    The nearest folder above that is there decides. The output is a folder, new or not; `file`: it
    is one file, so a folder in its place is refused, and replaced if it is there.
    """
    above = next(p for p in (path.absolute(), *path.absolute().parents) if os.path.lexists(p))
    there = above == path.absolute()
    if there and file and above.is_dir():
        raise refusal(IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)), path)
    folder = above.parent if there and file else above
    if not folder.is_dir():
        raise refusal(NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)), path)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise refusal(PermissionError(errno.EACCES, os.strerror(errno.EACCES)), path)


def append_line(path: Path, line: str) -> None:
    """Add a line to a log, in one write: short lines stay whole also with two writers.

    Not atomic: a kill may leave half of the last line. Raises CacheError where the disk is full.
    """
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{line}\n")
    except OSError as error:
        raise refusal(error, path) from error


def write_file(path: Path, data: bytes, *, label: str, shard: int | None = None) -> None:
    """One small file, atomic and durable on return."""
    write_temp(path, [data], label=label, shard=shard).commit()
    sync_folders([path.parent])


def remove_stale(root: Path) -> list[Path]:
    """Delete temp files under `root` whose writer is gone; returns what was deleted.

    Call it from the driver only, before and after a run. Another living run on the same cache
    keeps its files.
    """
    found = (
        Path(folder, name)
        for folder, _, names in os.walk(root)  # five times faster than rglob, follows no link
        for name in names
        if name.endswith(PARTIAL)
    )
    stale = [path for path in found if _is_stale(path)]
    for path in stale:
        path.unlink(missing_ok=True)
    return stale


def remove_stale_in(folder: Path) -> int:
    """Delete the temp files in one folder whose writer is gone, then the folder if it is empty.

    Returns the number of deleted files.
    """
    try:
        temps = [path for path in folder.iterdir() if path.name.endswith(PARTIAL)]
    except (FileNotFoundError, NotADirectoryError):
        return 0
    stale = [path for path in temps if _is_stale(path)]
    for path in stale:
        path.unlink(missing_ok=True)
    with suppress(OSError):  # a living writer's temp file is in it
        folder.rmdir()
    return len(stale)


def _name_new(temp: Path, path: Path) -> bool:
    """Give `temp` the name `path`; False if that name is taken.

    By a hard link, as a rename would replace; where the file system has none (exFAT, some FUSE) by
    a rename with RENAME_NOREPLACE. Raises OSError, EOPNOTSUPP where it has neither.
    """
    try:
        os.link(temp, path, follow_symlinks=False)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # Linux
    if rename is None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    names = os.fsencode(temp), os.fsencode(path)
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_NOREPLACE) == 0:
        return True
    code = ctypes.get_errno()
    if code == errno.EEXIST:
        return False
    raise OSError(errno.EOPNOTSUPP if code in (errno.EINVAL, errno.ENOSYS) else code, "")


def _write_and_digest(fd: int, buffers: Sequence[bytes | memoryview]) -> tuple[int, str]:
    digest = xxhash.xxh3_64()
    views = [memoryview(buffer).cast("B") for buffer in buffers]
    for view in views:
        digest.update(view)
    write_all(fd, views)
    return sum(map(len, views)), digest.hexdigest()


def writer_id() -> str:
    """This process among those of all machines, as temp files carry it."""
    return f"{machine()[:8]}-{os.getpid()}"


def machine() -> str:
    """This machine since its start, and the namespace of its process numbers: 16 hex digits.

    Clones of a machine share its name, containers of one machine may: a process number means
    something only where this is equal.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        boot, space = "", 0
    return xxhash.xxh3_64_hexdigest(f"{platform.node()}/{boot}/{space}".encode())


def _is_stale(path: Path) -> bool:
    parts = path.name.removesuffix(PARTIAL).rsplit(".", 1)[-1].split("-")
    if len(parts) == 3 and parts[0] == machine()[:8] and parts[1].isdecimal():
        return not _alive(int(parts[1]))
    try:
        return time.time() - path.lstat().st_mtime > FOREIGN_TEMP_AGE
    except FileNotFoundError:
        return False


def may_live(writer: str) -> bool:
    """Whether the process with this `writer_id` may be alive: of another machine each may."""
    host, _, pid = writer.partition("-")
    return host != machine()[:8] or not pid.isdecimal() or _alive(int(pid))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def refusal(
    error: Exception, path: Path, *, again: str = "run the same command again"
) -> CacheError:
    """The error for `path` that the system would not write, with the remedy that fits the cause.

    error  an OSError, or of a library that has only its text (safetensors: "... (os error 28)")
    again  the command that resumes once there is space
    """
    code = getattr(error, "errno", None)
    if code is None and (found := re.search(r"\(os error (\d+)\)", str(error))):
        code = int(found[1])
    where, cause = show(str(path), 300), os.strerror(code) if code else show(str(error), 300)
    if code in _NO_SPACE:
        return CacheError(
            f"{where}: {cause}: what was being written was not committed; free some "
            f"space and {again}, it continues where it stopped"
        )
    if code == errno.EOPNOTSUPP:
        cause = "its file system has neither hard links nor renames that do not replace"
    elif code == errno.EXDEV:
        cause = "it lies on another file system than the folder it belongs to"
    return CacheError(f"{where}: cannot be written: {cause}: give another path")
