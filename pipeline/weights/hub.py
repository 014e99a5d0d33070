"""Model folders of the Hugging Face hub: `hub:owner/name`, from the local hub cache.

Nothing is downloaded unless the caller says so.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError, MissingError
from ..text import show

PREFIX = "hub:"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?(@[\w./-]{1,100})?")
# Only what is read: no code, no pickles beside the shards of an index.
LM_FILES = ("*.json", "*.safetensors", "pytorch_model*.bin", "tokenizer.model")


def hub_folder(name: str, files: Sequence[str], *, allow_download: bool = False) -> Path:
    """The folder of a hub repository `owner/name[@revision]` with `files` (patterns).

    Raises ConfigError for what is not such a name, MissingError if the hub's cache lacks it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if not _NAME.fullmatch(name) or ".." in name:
        raise ConfigError(f"{PREFIX}{show(name)}: need {PREFIX}owner/name or with @revision")
    repository, _, revision = name.partition("@")
    try:
        found = snapshot_download(
            repository, revision=revision or None, allow_patterns=list(files),
            local_files_only=not allow_download,
        )  # fmt: skip
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, RuntimeError) as error:
        # RuntimeError: the hub's cache lies in a home that this user has not (HF_HOME names another)
        reason = show(str(error).splitlines()[0] if str(error) else type(error).__name__, 160)
        raise MissingError(
            f"{name} is not in the local hub cache ({reason}): get it with `hf download "
            f"{repository}`, or give a local folder"
        ) from None
    return Path(found)
