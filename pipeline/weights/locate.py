"""Locate weight files and model folders, including the Hugging Face cache (`hub:owner/name`).

Nothing is downloaded unless the caller says so; `svp fetch` downloads.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..display import show
from ..errors import ConfigError, MissingError, SvpError
from ..fetch.catalogue import CHECKPOINTS, PREFIX
from ..fetch.encoder_specs import ENCODERS
from ..fetch.sam_specs import SAMS
from ..io.paths import expand, user_cache
from ..store import is_url
from .file_checks import read_json, shards
from .model_config import MAX_CONFIG


def weight_files(model: str) -> tuple[str, ...]:
    """Names under which the weights of `model`, an encoder or a SAM, are published; () if none."""
    row = ENCODERS.get(model) or SAMS.get(model)
    return row.files if row else ()


def weight_folders() -> list[Path]:
    """Folders in the order they are searched: $SVP_WEIGHTS, ./weights, the user's cache."""
    given = os.environ.get("SVP_WEIGHTS")
    cache = user_cache()
    return [
        *([expand(given)] if given else []),
        Path("weights"),
        *([cache / "svp" / "weights"] if cache else []),
    ]


def search_weights(model: str) -> Path | None:
    """The first file or folder that holds the weights of `model`, or None.

    Searched are the weight folders, then an encoder's repository in the hub's local cache.
    """
    places = (folder / name for folder in weight_folders() for name in weight_files(model))
    return next((place for place in places if place.exists()), None) or _in_hub_cache(model)


def _in_hub_cache(model: str) -> Path | None:
    row = ENCODERS.get(model) or SAMS.get(model)
    if row is None or not row.hub:
        return None
    try:
        folder = hub_folder(row.hub, ENCODER_FILES)
        shards(folder)  # other programs may have fetched the configuration alone
    except SvpError:
        return None
    return folder


def find_weights(model: str, flag: str) -> Path:
    """Like `search_weights`, but a MissingError says where it looked and what to do."""
    found = search_weights(model)
    if found is None:
        random = f", or try the machinery with {flag} random"
        raise MissingError(f"weights of {model} not found: {how_to_get(model, flag)}{random}")
    return found


def how_to_get(model: str, flag: str) -> str:
    """Remedy for missing weights of `model`: searched paths, download command and option."""
    names = " or ".join(weight_files(model) or ("(no known file name)",))
    folders = ", ".join(str(folder) for folder in weight_folders())
    encoder, sam = ENCODERS.get(model), SAMS.get(model)
    hub = encoder.hub if encoder else sam.hub if sam else ""
    remote = encoder.remote if encoder else sam.remote if sam else None
    command = f"svp fetch {remote.name}" if remote else f"hf download {hub}" if hub else ""
    get = f"Get them with `{command}`, or give" if command else "Give"
    also = f", and for {hub} in the hub's local cache" if hub else ""
    if sam and sam.terms:
        get = f"First accept the licence on its page, {sam.terms}. {get}"
    access = f". {encoder.access}" if encoder and encoder.access else ""
    return f"looked for {names} in {folders}{also}. {get} them with {flag} PATH{access}"


def given_weights(given: str | Path, flag: str) -> Path:
    """The weight file or folder the user named with `flag`: a path, `hub:OWNER/NAME`, an address.

    What lies at an address such as s3://bucket/sam.pth is fetched, once per machine. Raises
    MissingError, ConfigError (no such name), CacheError (cannot be fetched).
    """
    text = str(given)
    if is_url(text):
        from .remote import local_copy

        return local_copy(text, flag)
    if text.startswith(PREFIX):
        try:
            return hub_folder(text.removeprefix(PREFIX), ENCODER_FILES)
        except MissingError as error:
            raise MissingError(f"{flag} {show(text, 200)}: {error}") from None
    path = expand(given)
    if not path.exists():
        repository = "/" in text and _NAME.fullmatch(text)
        hint = f" (a repository in the hub's local cache is {PREFIX}{text})" if repository else ""
        raise MissingError(
            f"{flag} {show(text, 200)}: no such weight file or folder{hint}: `svp fetch` lists what "
            "can be fetched, and where the usual files are looked for `svp doctor` tells"
        )
    return path


_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?(@[\w./-]{1,100})?")
# Only what is read: no code, no pickles beside the shards of an index.
ENCODER_FILES = (
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
)
LM_FILES = ("*.json", "*.safetensors", "pytorch_model*.bin", "tokenizer.model")


def find_checkpoint(name: str) -> Path | None:
    """The folder of one of `CHECKPOINTS`: in a weight folder, or in the hub's local cache."""
    for folder in weight_folders():
        if (folder / name / "config.json").is_file():
            return folder / name
    try:
        return hub_folder(CHECKPOINTS[name].repository, LM_FILES)
    except SvpError:
        return None


def model_folders() -> Iterator[tuple[Path, str]]:
    """Model folders on this machine, each with the `model_type` of its configuration.

    Looked for are those directly in a weight folder and in the hub's local cache, not elsewhere.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    ours = [file for folder in weight_folders() for file in sorted(folder.glob("*/config.json"))]
    hub = sorted(Path(HF_HUB_CACHE).glob("models--*/snapshots/*/config.json"))
    for file in (*ours, *hub):
        try:
            kind = read_json(file, MAX_CONFIG).get("model_type")
            shards(file.parent)  # other programs may have fetched the configuration alone
        except (SvpError, OSError):
            continue
        if isinstance(kind, str):
            yield file.parent, kind


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
