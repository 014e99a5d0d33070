"""A checkpoint on disk: a published folder, or one weight file with its config.json beside it."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from ...pipeline.weights.load import load_state_dict, require_finite
from . import rules
from .checkpoint import Imported, import_ris_checkpoint
from .shape import read_shape


def open_ris_checkpoint(
    path: Path,
    *,
    layout: str = "auto",
    keep: Collection[str] = (),
    lora_alpha: float = 16.0,
) -> Imported:
    """Import a folder (sharded .bin or .safetensors) or a single file, memory-mapped.

    Arguments and errors as `import_ris_checkpoint`, and MissingError where a file is not there.
    """
    state = load_state_dict(path)
    shape = read_shape(path if path.is_dir() else path.parent)
    found = import_ris_checkpoint(
        state, shape, layout=layout, keep=keep, lora_alpha=lora_alpha, where=str(path)
    )
    require_finite(path, _of_lm)
    return replace(found, finite=True)


def _of_lm(name: str) -> bool:
    found = rules.find(name)
    return found is not None and found[0].group == rules.LM
