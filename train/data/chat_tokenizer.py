"""Tokenizers with a chat template: `tokenizer.json` and what `tokenizer_config.json` says of it.

No class is chosen by a folder's own word, as AutoTokenizer does. The template is text from the
folder; transformers renders it in Jinja's sandbox, without access to anything but the messages.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...pipeline.display import show
from ...pipeline.errors import MissingError, WeightsError
from ...pipeline.weights.file_checks import read_json, regular_size
from .llama_tokenizer import CONFIG, JSON, LIMIT, MODEL, Words, from_json

_TEMPLATE, _TEMPLATE_JSON = "chat_template.jinja", "chat_template.json"
_MAX_TEMPLATE = 1 << 18  # bytes; the longest in use have 20 KB
_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")


def chats(folder: Path) -> bool:
    """Whether a folder of LLaMA's layout has a tokenizer of a later kind, with a template.

    One that starts a text with "▁" is LLaMA's own, for which the dialogue is Vicuna's.
    """
    if (folder / MODEL).exists() or not (folder / JSON).exists() or not template_of(folder):
        return False
    core, _, _ = from_json(folder / JSON)
    return not "".join(core.encode("a", add_special_tokens=False).tokens).startswith("▁")


def read_chat_words(folder: Path, wanted: Sequence[str]) -> Words:
    """The tokenizer of a folder, with tokens of `wanted` that it lacks after all it has.

    Raises MissingError (no tokenizer or template), WeightsError (damaged).
    """
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    if not (folder / JSON).exists():
        raise MissingError(
            f"{show(str(folder), 300)}: no {JSON}: take it from where the weights came from"
        )
    template = template_of(folder)
    if not template:
        raise MissingError(
            f"{show(str(folder), 300)}: no chat template in {_TEMPLATE} or {CONFIG}: take the model "
            "that was trained for dialogue (Instruct), or its tokenizer files"
        )
    core, _, _ = from_json(folder / JSON)
    raw = read_json(folder / CONFIG, LIMIT) if (folder / CONFIG).exists() else {}
    roles = {role: _content(raw.get(role)) for role in _ROLES}
    known = core.get_vocab()
    for role, token in roles.items():
        if token is not None and token not in known:
            raise WeightsError(
                f"{show(str(folder / CONFIG), 300)}: {role} {show(token)} is no entry"
            )
    first = 1 + max(known.values())
    new = [AddedToken(t, special=True, normalized=False) for t in wanted if t not in known]
    core.add_special_tokens(new)
    tokenizer: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core, clean_up_tokenization_spaces=False,
        **{role: token for role, token in roles.items() if token is not None},
    )  # fmt: skip
    tokenizer.chat_template = template
    core = tokenizer.backend_tokenizer

    def encode(text: str) -> Sequence[int]:
        ids: Sequence[int] = core.encode(text, add_special_tokens=False).ids
        return ids

    return Words(tokenizer, encode, first, tokenizer.get_added_vocab())


def template_of(folder: Path) -> str:
    """The folder's chat template, "" without one."""
    if (folder / _TEMPLATE).exists():
        regular_size(folder / _TEMPLATE, _MAX_TEMPLATE)
        return (folder / _TEMPLATE).read_text("utf-8", errors="replace")
    for name in (CONFIG, _TEMPLATE_JSON):
        if (folder / name).exists():
            found = read_json(folder / name, LIMIT).get("chat_template")
            if isinstance(found, list):  # several by name
                found = next((x.get("template") for x in found if x.get("name") == "default"), None)
            if isinstance(found, str):
                return found
    return ""


def _content(token: Any) -> str | None:
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None
