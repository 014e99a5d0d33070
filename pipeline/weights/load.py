"""Guarded loading of weights: the only entry point for checkpoints.

`torch.load` is called once in this package, with `weights_only=True` and no fallback: a file
that needs a Python object is refused and none of its code runs. Files are checked first
(`file_checks`), tensors afterwards, names and shapes by `key_report.check_keys`.
"""

import hashlib
import pickle
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..display import show
from ..errors import MissingError, WeightsError
from .digests import check_published, sha256_file
from .file_checks import Kind, file_kind, shards
from .key_report import KeyReport, TensorSpec, check_keys, expected_of, finite, load_into

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "KeyReport",
    "TensorSpec",
    "check_keys",
    "check_published",
    "expected_of",
    "load_into",
    "load_state_dict",
    "require_digest",
    "require_finite",
    "sha256_file",
    "weights_digest",
]

# Weights of `svp export` and adapters of peft beside those of a model.
BESIDE = ("svp.safetensors", "adapter/adapter_model.safetensors", "adapter_model.safetensors")
_DEPTH = 4  # wrappers in wrappers

# What reading a damaged or hostile file can raise; anything else is a bug and keeps its traceback.
_DAMAGE = (
    pickle.UnpicklingError,
    RuntimeError,
    MemoryError,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    OverflowError,
    struct.error,
)


def load_state_dict(path: Path) -> "dict[str, Tensor]":
    """All tensors of a weight file or of a (sharded) model folder, on the CPU.

    Accepts .pth/.pt/.bin (zip or pre-1.6), .safetensors, and folders with `model.safetensors`,
    `pytorch_model.bin` or a Hugging Face index; what training scripts put around the tensors is removed.
    Zip checkpoints are memory-mapped. Raises `MissingError` if nothing is there, `WeightsError`
    for everything else that is wrong; no code from the file is run, and none is tried twice.
    """
    if not path.exists():
        raise MissingError(f"{show(str(path), 200)}: no such weight file or folder")
    if not path.is_dir():
        return _load_file(path)
    state: dict[str, Tensor] = {}
    for file, promised in shards(path).items():
        part = _load_file(file)
        _check_promise(file, part, promised)
        if repeated := state.keys() & part.keys():
            raise WeightsError(f"{show(str(file), 200)}: repeats {show(sorted(repeated))}")
        state |= part
    return state


def require_finite(path: Path, wanted: Callable[[str], bool]) -> None:
    """WeightsError if a tensor that is `wanted`, by name, holds NaN or infinity.

    Files are mapped and let go one after another, so at most one of them is resident: afterwards
    the same weights can be mapped again and each process touch its own part only.
    """
    for file in sorted(shards(path)) if path.is_dir() else [path]:
        part = _load_file(file)
        while part:
            name, tensor = part.popitem()
            if wanted(name) and tensor.is_floating_point() and not finite(tensor):
                raise WeightsError(
                    f"{show(str(file), 200)}: {show(name)} holds NaN or infinity: get the file again"
                )


def weights_digest(path: Path) -> str:
    """Hex sha256 that names the weights at `path`.

    A file, or a folder with one weight file: that file's sha256. A sharded folder: the sha256 of
    the lines `sha256sum` prints for its shards, sorted by name, and for what lies beside them.
    Configuration files do not count.
    """
    if not path.exists():
        raise MissingError(f"{show(str(path), 200)}: no such weight file or folder")
    files = sorted(shards(path)) if path.is_dir() else [path]
    files += [path / name for name in BESIDE if (path / name).is_file()]
    if len(files) == 1:
        return sha256_file(files[0])
    lines = "".join(f"{sha256_file(file)}  {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def require_digest(path: Path, wanted: str, what: str) -> None:
    """`WeightsError` naming both digests unless the weights at `path` are those of the recipe."""
    found = weights_digest(path)
    if found != wanted:
        raise WeightsError(
            f"{show(str(path), 200)}: sha256 {found}, but {what} asks for {show(wanted)}. "
            "Give the file the recipe was made with, or start a new recipe"
        )


_SAFE = "Get the weights as .safetensors, or save the state dict alone"


def _load_file(path: Path) -> "dict[str, Tensor]":
    kind = file_kind(path)
    check_published(path)
    try:
        content = _read(path, kind)
    except _DAMAGE as error:
        raise WeightsError(f"{show(str(path), 200)}: {_reason(error)}") from None
    return _tensors(path, _unwrap(path, content))


def _read(path: Path, kind: Kind) -> Any:
    if kind == "safetensors":
        import safetensors
        from safetensors.torch import load_file

        try:
            return load_file(path, device="cpu")
        except safetensors.SafetensorError as error:
            raise ValueError(str(error)) from None
    import torch

    return torch.load(path, map_location="cpu", weights_only=True, mmap=kind == "zip")


def _reason(error: BaseException) -> str:
    """Own words: torch's message advises `weights_only=False`, which must never be followed."""
    if name := re.search(r"GLOBAL (\S{1,100})", str(error)):
        return (
            f"refused: the file holds Python objects, not only tensors (it asks for "
            f"{show(name[1])}), and loading those could run code. {_SAFE}"
        )
    if isinstance(error, pickle.UnpicklingError):
        return f"refused: damaged, or more than plain tensors. {_SAFE}"
    first = str(error).splitlines()[0] if str(error) else ""
    return f"damaged weight file ({type(error).__name__}: {show(first, 160)}). Fetch it again"


def _unwrap(path: Path, content: Any, depth: int = _DEPTH) -> Any:
    """The state dict inside a training script's file, whatever its name there.

    Raises:
        WeightsError: the file holds several models; which of them was meant cannot be known.
    """
    if not isinstance(content, Mapping) or not depth:
        return content
    # An optimizer's state maps numbers, not names, to its tensors.
    named = [k for k, v in content.items() if isinstance(v, Mapping) and all(map(_is_name, v))]
    inner = {k: _unwrap(path, content[k], depth - 1) for k in named}
    found = {k: v for k, v in inner.items() if _holds_tensors(v)}
    # A loss's few buffers are not a second model; averaged weights (EMA, a student) are.
    largest = max(map(len, found.values()), default=0)
    models = [k for k, v in found.items() if 2 * len(v) >= largest]
    if len(models) > 1:
        raise WeightsError(
            f"{show(str(path), 200)}: it contains several state dicts, under "
            f"{', '.join(show(str(k)) for k in models)}: save the one to be loaded alone"
        )
    return found[models[0]] if models else content


def _is_name(key: object) -> bool:
    return isinstance(key, str)


def _holds_tensors(value: Any) -> bool:
    import torch

    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(
            isinstance(name, str) and isinstance(tensor, torch.Tensor)
            for name, tensor in value.items()
        )
    )


def _tensors(path: Path, content: Any) -> "dict[str, Tensor]":
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(
            f"{show(str(path), 200)}: {type(content).__name__}, not a state dict. {_SAFE}"
        )
    for name, value in content.items():
        if fault := _tensor_fault(name, value):
            raise WeightsError(
                f"{show(str(path), 200)}: {show(name)}: {fault}; a state dict maps names to dense "
                f"tensors (alone or under one name, such as model or state_dict)"
            )
    return {name: value.detach() for name, value in content.items()}


def _tensor_fault(name: object, value: object) -> str:
    import torch

    if not isinstance(name, str):
        return "the name is not text"
    if not isinstance(value, torch.Tensor):
        return f"{type(value).__name__} instead of a tensor"
    if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
        return f"{value.layout} tensor on {value.device}"
    # A (10**6, 10**6) view of one number would cost terabytes as soon as anything copies it.
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return "a view larger than its data"
    return ""


def _check_promise(path: Path, part: "dict[str, Tensor]", promised: frozenset[str] | None) -> None:
    if promised is not None and part.keys() != promised:
        odd = sorted(part.keys() ^ promised)
        raise WeightsError(
            f"{show(str(path), 200)}: does not hold what the index says: {show(odd)}: "
            "get the shards and their index again, from one source"
        )
