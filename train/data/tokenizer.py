"""LLaMA tokenizer of the dialogues: pieces of plain text, and special ids.

GLaMM and LISA weights know the ids of transformers 4.28's slow tokenizer: text after a special token
starts a new word ("▁"), and blanks next to a special token are dropped. Newer tokenizers differ in
both, which shifts the position of [SEG]. So no text with a special token in it ever reaches the
tokenizer: the dialogue is encoded piece by piece and joined as ids.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from ...model.conversion.key_mapping import LAYOUTS, Layout
from ...pipeline.datasets.expressions import SPECIAL
from ...pipeline.display import counted, quote, show
from ...pipeline.errors import ConfigError, DataError, WeightsError
from .llama_tokenizer import Words, read_words
from .prompts import GLAMM, LISA, SEG, Wording

IMAGE = -200  # stands for the image in a list of ids; no tokenizer has a negative id
IM_START, IM_END = "<im_start>", "<im_end>"
ADDED = LAYOUTS["glamm"].tokens  # 32000..32006 after LLaMA's own 32,000 entries
_PIECES = 1 << 16  # encoded pieces remembered: the wordings and the expressions of an epoch


class Vocabulary:
    """Ids of special tokens, and of plain text.

    tokenizer  of transformers, with the same entries
    size       rows that embedding and head need: one more than the highest id
    bos, eos, pad, im_start, im_end, seg   ids
    wording    what is asked and answered: that of the weights these tokens belong to

    Raises ConfigError if a special token is not exactly one id, or if the tokenizer does not start
    a text with "▁" (then it is not of LLaMA's kind, or was told not to).
    """

    def __init__(self, words: Words) -> None:
        self.tokenizer, self._core = words.tokenizer, words.encode
        known: dict[str, int] = self.tokenizer.get_vocab()
        self._known = known
        self.base = words.base
        self.size = 1 + max(known.values())
        self.im_start, self.im_end, self.seg = (_one(known, t) for t in (IM_START, IM_END, SEG))
        self.bos, self.eos = (_one(known, t) for t in ("<s>", "</s>"))
        self.pad = known.get("<unk>", 0)  # GLaMM pads with <unk>, id 0
        special = dict.fromkeys(("<s>", "</s>", *ADDED, *words.added))
        self._special = {known[t]: t for t in special if t in known}
        lisa = "<im_patch>" in known and "<bbox>" not in known  # by their tokens, so exports too
        self.wording: Wording = LISA if lisa else GLAMM
        self._remembered = lru_cache(_PIECES)(self._encode)
        tokens = self.tokenizer.convert_ids_to_tokens(list(self.encode("a")))
        first = tokens[0] if tokens else ""  # a model without entries gives none
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

    def require(self, ids: Mapping[str, int], layout: str, where: str) -> None:
        """WeightsError unless every token of a checkpoint's layout has the id of its row."""
        own = {token: self._known.get(token) for token in ids}
        if wrong := [token for token in ids if own[token] != ids[token]]:
            token = wrong[0]
            raise WeightsError(
                f"{show(where, 200)}: its tokenizer gives {token} the id {own[token]}, the weights "
                f"(layout {layout}) have it in row {ids[token]} ({len(wrong)} of "
                f"{counted(len(ids), 'added token', 'differ')}): use tokenizer.model and "
                "added_tokens.json of the folder the weights were published in"
            )

    def _encode(self, text: str) -> tuple[int, ...]:
        if match := SPECIAL.search(text):
            raise DataError(f"{quote(text)} holds the special token {match[0]}")
        if found := next((token for token in self._special.values() if token in text), None):
            raise DataError(f"{quote(text)} holds the special token {found}")
        return tuple(self._core(text)) if text else ()


def load_vocabulary(folder: Path, layout: Layout | None = None) -> Vocabulary:
    """The tokenizer of a model folder; special tokens it lacks are added.

    layout  of the checkpoint in this folder: its tokens are added in its order, and ids that are
            not those of its rows are refused. None: a language model alone, which gets GLaMM's

    A tokenizer without any (LLaMA, Vicuna) so gets 32000..32006; `Vocabulary.size` then tells the
    rows that embedding and head need. Raises MissingError, WeightsError, ConfigError, and
    MissingPackageError for a `tokenizer.model` without sentencepiece.
    """
    wanted = layout.tokens if layout else ADDED
    vocab = Vocabulary(read_words(folder, wanted, layout.tokens if layout else _NEEDED))
    if layout:
        vocab.require(layout.ids(), layout.name, str(folder))
    return vocab


_NEEDED = (IM_START, IM_END, SEG)


def _one(known: dict[str, int], token: str) -> int:
    if token not in known:
        raise ConfigError(f"the tokenizer has no single id for {token}: add it as a special token")
    return known[token]
