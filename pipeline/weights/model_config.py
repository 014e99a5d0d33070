"""Read config.json of an untrusted model folder as data and check it.

transformers has run code named in a config.json twice (CVE-2026-4372, CVE-2026-5241), so the
library gets a configuration of our own and no path. The file only has to agree with it.
"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from ..display import show
from ..errors import WeightsError
from .file_checks import read_json

MAX_CONFIG = 1 << 20  # bytes
_HARMLESS = {"_name_or_path", "_commit_hash", "_attn_implementation_autoset"}
_CODE = {"auto_map", "custom_pipelines", "trust_remote_code", "code_revision"}


def check_config(
    folder: Path,
    expected: Mapping[str, object],
    part: str = "",
    *,
    unread: Collection[str] = (),
) -> None:
    """Refuse a folder whose config.json requests code or describes another model.

    `part` names the sub-configuration to compare, used where it is present (CLIP's
    `vision_config`); `unread` keys that name code but that the caller never reads. Raises
    MissingError without a config.json, else WeightsError.
    """
    path = folder / "config.json"
    config = read_json(path, MAX_CONFIG)
    for key in _keys(config):
        if key in unread:
            continue
        if key in _CODE or (key.startswith("_") and key not in _HARMLESS):
            raise WeightsError(
                f"{show(str(path), 200)}: refused, {show(key)} can make a library run code. "
                "Use the published folder, or give the weight file alone"
            )
    inner = config.get(part, config) if part else config
    found = inner if isinstance(inner, dict) else {}
    for key, value in expected.items():
        if key in found and found[key] != value:
            raise WeightsError(
                f"{show(str(path), 200)}: {key} is {show(found[key])}, this encoder has {value!r}. "
                "Check features.encoder, or give another folder"
            )


def _keys(value: object) -> Iterator[str]:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            yield from item
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
