"""A LLaMA-style tokenizer as the dialogues use it: pieces of plain text, and special ids.

GLaMM and LISA weights know the ids of the old slow tokenizer (transformers 4.28, spec ris.md 3):
text after a special token starts a new word ("▁"), and blanks next to a special token are dropped.
Newer tokenizers differ in both, which shifts the position of [SEG]. So no text with a special token
in it ever reaches the tokenizer: the dialogue is encoded piece by piece and joined as ids.
"""

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...pipeline.errors import (
    ConfigError,
    DataError,
    MissingError,
    MissingPackageError,
    WeightsError,
)
from ...pipeline.sources.wording import SPECIAL
from ...pipeline.text import quote, show
from .prompts import SEG

IMAGE = -200  # stands for the image in a list of ids; no tokenizer has a negative id
IM_START, IM_END = "<im_start>", "<im_end>"
# In GLaMM's order (train_ft.py:134-153): 32000..32006 after LLaMA's own 32,000 entries.
ADDED = (IM_START, IM_END, "<bbox>", "<point>", SEG, "<p>", "</p>")
_PIECES = 1 << 16  # encoded pieces remembered: the wordings and the expressions of an epoch


class Vocabulary:
    """Ids of special tokens, and of plain text.

    tokenizer  the transformers tokenizer, as given
    size       rows that embedding and head need: one more than the highest id
    bos, eos, pad, im_start, im_end, seg   ids

    Raises ConfigError if a special token is not exactly one id, or if the tokenizer does not start
    a text with "▁" (then it is not of LLaMA's kind, or was told not to).
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._core = tokenizer.backend_tokenizer  # half the cost of going through transformers
        known: dict[str, int] = tokenizer.get_vocab()
        self.size = 1 + max(known.values())
        self.im_start, self.im_end, self.seg = (_one(known, t) for t in (IM_START, IM_END, SEG))
        self.bos, self.eos = (_one(known, t) for t in ("<s>", "</s>"))
        self.pad = known.get("<unk>", 0)  # GLaMM pads with <unk>, id 0
        self._special = {known[t]: t for t in ("<s>", "</s>", *ADDED) if t in known}
        self._remembered = lru_cache(_PIECES)(self._encode)
        first = tokenizer.convert_ids_to_tokens(list(self.encode("a")))[0]
        if not first.startswith("▁"):
            raise ConfigError(
                f"this tokenizer starts a text with {quote(first)}, not with '▁': use a LLaMA-style "
                "tokenizer (sentencepiece, add_prefix_space)"
            )

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of one piece of plain text, blanks at both ends dropped.

        Raises DataError if the piece holds a special token.
        """
        return self._remembered(text.strip())

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; placeholders and special tokens are left out."""
        plain = [i for i in ids if i >= 0 and i not in self._special]
        text: str = self.tokenizer.decode(plain, skip_special_tokens=False)
        return text

    def _encode(self, text: str) -> tuple[int, ...]:
        if match := SPECIAL.search(text):
            raise DataError(f"{quote(text)} holds the special token {match[0]}")
        ids = tuple(self._core.encode(text, add_special_tokens=False).ids)
        if found := self._special.keys() & ids:
            raise DataError(f"{quote(text)} holds the special token {self._special[min(found)]}")
        return ids


def load_vocabulary(folder: Path) -> Vocabulary:
    """The tokenizer of a model folder; special tokens it lacks are added in GLaMM's order.

    A tokenizer without any (LLaMA, Vicuna) so gets 32000..32006; `Vocabulary.size` then tells the
    rows that embedding and head need. Raises MissingError, WeightsError, ConfigError, and
    MissingPackageError for a bare `tokenizer.model` without sentencepiece.
    """
    if not folder.is_dir():
        raise MissingError(f"{show(str(folder), 300)}: no such tokenizer folder")
    bare = not (folder / "tokenizer.json").exists() and (folder / "tokenizer.model").exists()
    if bare and not (find_spec("sentencepiece") and find_spec("google.protobuf")):
        raise MissingPackageError("sentencepiece and protobuf", "train", "a tokenizer.model")
    try:
        tokenizer = _open(folder)
    except (OSError, ValueError, ImportError) as error:
        raise WeightsError(
            f"{show(str(folder), 300)}: no tokenizer can be read: {show(str(error), 300)}"
        ) from None
    known = tokenizer.get_vocab()
    if not {IM_START, IM_END, SEG} <= known.keys():
        tokenizer.add_tokens([t for t in ADDED if t not in known], special_tokens=True)
    return Vocabulary(tokenizer)


def _open(folder: Path) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    file = folder / "tokenizer.json"
    if file.is_file() and not (folder / "tokenizer_config.json").exists():
        return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_file=str(file), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
        )
    return AutoTokenizer.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    )


def _one(known: dict[str, int], token: str) -> int:
    if token not in known:
        raise ConfigError(f"the tokenizer has no single id for {token}: add it as a special token")
    return known[token]
