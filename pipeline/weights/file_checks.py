"""Checks of untrusted weight files before loading.

A checkpoint is untrusted input. These checks need no torch: regular file, size cap, name and
content agree, an archive that holds only stored (uncompressed) entries which together are no larger
than the file, a safetensors header of bounded size without duplicate names, an index that names
plain files beside it. Invariant: memory is bounded by the size of the file on disk.
"""

import json
import os
import re
import stat
import zipfile
from pathlib import Path
from typing import Literal, NoReturn

from ..display import counted, show
from ..errors import MissingError, WeightsError

Kind = Literal["zip", "legacy", "safetensors"]

MAX_FILE = 64 << 30  # bytes; the largest shard of a public 70B model is 10 GB
MAX_HEADER = 32 << 20  # bytes of JSON or of pickled structure; ViT-H needs 0.2 MB
MAX_ENTRIES = 100_000
MAX_SHARDS = 1_000
TORCH_SUFFIXES = (".pth", ".pt", ".bin")
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SHARD = re.compile(r"(model-.+\.safetensors|pytorch_model-.+\.bin)")
SINGLES = ("model.safetensors", "pytorch_model.bin")

_ZIP_MAGIC = b"PK\x03\x04"
_ZIP_END = b"PK\x05\x06"
_ZIP_END_BYTES = 22  # end record without a comment, the only form torch.save writes
# torch.save before 1.6: a pickled magic number (0x1950a86a20f9469cfc6c), torch/serialization.py.
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def file_kind(path: Path) -> Kind:
    """Check `path` and say how to read it.

    Raises `MissingError` (no such file) or `WeightsError` (not a regular file, too large, content
    and name disagree, damaged, or a bomb).
    """
    size = regular_size(path)
    with open(path, "rb") as file:
        head = file.read(len(_LEGACY_MAGIC))
    if path.suffix == ".safetensors":
        _check_safetensors(path, size)
        return "safetensors"
    if path.suffix not in TORCH_SUFFIXES:
        _refuse(path, f"unknown suffix; weights are {', '.join(TORCH_SUFFIXES)} or .safetensors")
    if head.startswith(_ZIP_MAGIC):
        _check_zip(path, size)
        return "zip"
    if head == _LEGACY_MAGIC:
        return "legacy"
    _refuse(path, "not a PyTorch checkpoint (truncated, a web page, or another format?)")


def regular_size(path: Path, limit: int = MAX_FILE) -> int:
    """Size in bytes of a regular file of at most `limit` bytes (links are followed)."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise MissingError(f"{show(str(path), 200)}: no such weight file") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{show(str(path), 200)}: {show(str(error))}") from None
    if not stat.S_ISREG(status.st_mode):
        _refuse(path, "not a regular file")
    if not 0 < status.st_size <= limit:
        _refuse(path, f"{status.st_size:,} bytes, allowed 1 to {limit:,}")
    return status.st_size


def shards(folder: Path) -> dict[Path, frozenset[str] | None]:
    """The weight files of a Hugging Face style folder.

    Maps each file to the tensor names the index promises there, or to None when the folder holds a
    single file without an index. safetensors are preferred; there is no falling back from a
    damaged file to another one.
    """
    for name in INDEXES:
        if (folder / name).exists():
            return _read_index(folder / name)
    for name in SINGLES:
        if (folder / name).exists():
            return {folder / name: None}
    wanted = ", ".join(SINGLES + INDEXES)
    parts = sorted(p.name for p in folder.iterdir() if _SHARD.fullmatch(p.name))
    if parts:
        index = INDEXES[parts[0].endswith(".bin")]
        raise MissingError(
            f"{show(str(folder), 200)}: holds shards ({show(parts[0])}) without their "
            f"{index}: get it from where the shards came from"
        )
    raise MissingError(f"{show(str(folder), 200)}: no weights in this folder; looked for {wanted}")


def read_json(path: Path, limit: int = MAX_HEADER) -> dict[str, object]:
    """A JSON object from an untrusted file of at most `limit` bytes; duplicate names refused."""
    regular_size(path, limit)
    return _parse_object(path, path.read_bytes(), "JSON")


def _read_index(path: Path) -> dict[Path, frozenset[str] | None]:
    table = read_json(path).get("weight_map")
    if not isinstance(table, dict) or not table:
        _refuse(path, "no weight_map")
    by_file: dict[str, set[str]] = {}
    for tensor, name in table.items():
        if not isinstance(name, str) or not _is_plain(name):
            _refuse(path, f"weight_map names {show(name)}, which is not a plain file name")
        by_file.setdefault(name, set()).add(tensor)
    if len(by_file) > MAX_SHARDS:
        _refuse(path, f"{counted(len(by_file), 'file')}, allowed {MAX_SHARDS}")
    # Told before the others are read: a download that broke off misses its last gigabytes.
    absent = [name for name in sorted(by_file) if not (path.parent / name).exists()]
    if absent:
        raise MissingError(
            f"{show(str(path), 200)}: {len(absent):,} of its "
            f"{counted(len(by_file), 'shard', 'are')} not there, "
            f"{show(absent[0])} first: the download is not complete, repeat it"
        )
    return {path.parent / name: frozenset(names) for name, names in sorted(by_file.items())}


def _is_plain(name: str) -> bool:
    suffix_ok = name.endswith((".safetensors", ".bin"))
    return suffix_ok and not name.startswith(".") and not set(name) & set('/\\:\0"~')


def _check_safetensors(path: Path, size: int) -> None:
    """Header length and names; offsets, dtypes and full cover are checked by the library."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 10 or length > min(size - 8, MAX_HEADER):
            _refuse(path, "not a safetensors file, or truncated")
        entries = _parse_object(path, file.read(length), "safetensors header")
    if len(entries) > MAX_ENTRIES:
        _refuse(path, f"{counted(len(entries), 'tensor')}, allowed {MAX_ENTRIES:,}")


def _check_zip(path: Path, size: int) -> None:
    """An archive as `torch.save` writes it, and nothing else."""
    with open(path, "rb") as file:
        file.seek(max(0, size - _ZIP_END_BYTES))
        # With a comment or trailing bytes, two readers may find two different directories.
        if not file.read().startswith(_ZIP_END):
            _refuse(path, "truncated, or bytes after the end of the archive")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, NotImplementedError) as error:
        _refuse(path, f"damaged archive ({show(str(error))})")
    if fault := _zip_fault(entries, size):
        _refuse(path, fault)


def _zip_fault(entries: list[zipfile.ZipInfo], size: int) -> str:
    names = [entry.filename for entry in entries]
    roots = {name.split("/", 1)[0] for name in names}
    inner = {name.split("/", 1)[-1]: entry for name, entry in zip(names, entries, strict=True)}
    if not 0 < len(entries) <= MAX_ENTRIES or len(set(names)) != len(names):
        return f"{len(entries):,} entries ({len(set(names)):,} different names)"
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        return "compressed entries; torch.save never compresses"
    if sum(entry.file_size for entry in entries) > size:
        return "entries larger than the file: an archive bomb"
    if min(entry.header_offset for entry in entries) != 0:
        return "bytes before the archive"
    if len(roots) != 1 or "data.pkl" not in inner:
        return "not written by torch.save (no single folder with data.pkl)"
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return "a TorchScript program, not a state dict"
    if inner["data.pkl"].file_size > MAX_HEADER:
        return f"structure of {inner['data.pkl'].file_size:,} bytes, allowed {MAX_HEADER:,}"
    return ""


def _parse_object(path: Path, data: bytes, what: str) -> dict[str, object]:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        table = dict(pairs)
        if len(table) != len(pairs):
            raise ValueError("a name occurs twice")
        return table

    try:
        parsed = json.loads(data, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        _refuse(path, f"damaged {what} ({show(str(error))})")
    if not isinstance(parsed, dict):
        _refuse(path, f"damaged {what} (not an object)")
    return parsed


def _refuse(path: Path, why: str) -> NoReturn:
    raise WeightsError(f"{show(str(path), 200)}: {why}. Check the file, or fetch it again")
