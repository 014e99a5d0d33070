"""Tokenizer of the dialogues: pieces of plain text, and special ids.

GLaMM and LISA weights know the ids of transformers 4.28's slow tokenizer: text after a special token
starts a new word ("▁"), and blanks next to a special token are dropped. Newer tokenizers differ in
both, which shifts the position of [SEG]. So no text with a special token in it ever reaches the
tokenizer: the dialogue is encoded piece by piece and joined as ids. Other models have a chat template
with special tokens of its own, which their tokenizers take apart as they were trained to.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from ...model.conversion.key_mapping import LAYOUTS, Layout
from ...model.language.adapter import Language
from ...model.language.families import family
from ...model.language.llama import LLAMA
from ...model.pretrained.config import is_export, read_model_file
from ...pipeline.datasets.expressions import SPECIAL
from ...pipeline.display import counted, quote, show
from ...pipeline.errors import ConfigError, DataError, WeightsError
from ...pipeline.weights.file_checks import read_json
from ...pipeline.weights.model_config import MAX_CONFIG
from .chat_template import ChatTemplate
from .chat_tokenizer import chats, read_chat_words
from .llama_tokenizer import Words, read_words
from .prompts import CHAT, GLAMM, IM_END, IM_START, LISA, REJ, SEG, Wording

IMAGE = -200  # stands for the image in a list of ids; no tokenizer has a negative id
ADDED = LAYOUTS["glamm"].tokens  # 32000..32006 after LLaMA's own 32,000 entries
_PIECES = 1 << 16  # encoded pieces remembered: the wordings and the expressions of an epoch


class Vocabulary:
    """Ids of special tokens, and of plain text.

    tokenizer  of transformers, with the same entries
    size       rows that embedding and head need: one more than the highest id
    bos, eos, pad, im_start, im_end, seg   ids; bos is None where the chat template gives it
    rej        id of [REJ]; None: the model cannot say that nothing is meant
    ends       ids that end an answer, eos among them
    base       entries before the first added token; with `chat`, before the first of ours
    wording    what is asked and answered: that of the weights these tokens belong to
    chat       the model's own chat template; None: the dialogue is Vicuna's
    system     system message of every dialogue, "" for none; None: the template's own, or Vicuna's

    Raises ConfigError if a special token is not exactly one id, or if a tokenizer without template
    does not start a text with "▁" (then it is not of LLaMA's kind, or was told not to).
    """

    def __init__(
        self, words: Words, chat: ChatTemplate | None = None, system: str | None = None
    ) -> None:
        self.tokenizer, self._core = words.tokenizer, words.encode
        known: dict[str, int] = self.tokenizer.get_vocab()
        self._known = known
        self.base = words.base
        self.size = 1 + max(known.values())
        self.im_start, self.im_end, self.seg = (_one(known, t) for t in (IM_START, IM_END, SEG))
        self.rej: int | None = known.get(REJ)
        self.chat, self.system, self._words = chat, system, words
        self.bos = _one(known, "<s>") if chat is None else None
        self.eos = _one(known, chat.end if chat else "</s>")
        self.ends = frozenset({self.eos, known.get(self.tokenizer.eos_token, self.eos)})
        # GLaMM pads with <unk>, id 0. Padding is never read: a model without <unk> needs no other.
        self.pad = known.get("<unk>", 0)
        special = dict.fromkeys(("<s>", "</s>", *ADDED, *words.added))
        self._special = {known[t]: t for t in special if t in known}
        lisa = "<im_patch>" in known and "<bbox>" not in known  # by their tokens, so exports too
        self.wording: Wording = LISA if lisa else GLAMM if chat is None else CHAT
        self._remembered = lru_cache(_PIECES)(self._encode)
        self.encode_as_is = lru_cache(_PIECES)(lambda text: tuple(self._core(text)))
        if chat is not None:
            return
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

    def with_rejection(self) -> "Vocabulary":
        """The same words and [REJ], the next id, if it is not among them."""
        if self.rej is not None:
            return self
        return Vocabulary(self._words.adding(REJ), self.chat, self.system)

    def with_system(self, text: str) -> "Vocabulary":
        """The same words, and dialogues with this system message; "": with none.

        Raises ConfigError if the chat template has none, or if the text holds a special token.
        """
        try:
            self.require_plain(text)
        except DataError as error:
            raise ConfigError(f"model.system_text: {error}: leave it out of the text") from None
        return Vocabulary(self._words, self.chat and self.chat.with_system(text), text)

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

    def require_plain(self, *texts: str) -> None:
        """DataError if one of `texts` holds a special token."""
        for text in texts:
            if match := SPECIAL.search(text):
                raise DataError(f"{quote(text)} holds the special token {match[0]}")
            if found := next((token for token in self._special.values() if token in text), None):
                raise DataError(f"{quote(text)} holds the special token {found}")

    def _encode(self, text: str) -> tuple[int, ...]:
        self.require_plain(text)
        return tuple(self._core(text)) if text else ()


def load_vocabulary(folder: Path, layout: Layout | None = None) -> Vocabulary:
    """The tokenizer of a model folder; special tokens it lacks are added.

    layout  of the checkpoint in this folder: its tokens are added in its order, and ids that are
            not those of its rows are refused. None: a language model alone, which gets GLaMM's

    A tokenizer without any (LLaMA, Vicuna) so gets 32000..32006; `Vocabulary.size` then tells the
    rows that embedding and head need. An export's system message is its own. Raises MissingError,
    WeightsError, ConfigError, and MissingPackageError for a `tokenizer.model` without sentencepiece.
    """
    vocab = _read(folder, layout)
    system = read_model_file(folder).system_text if is_export(folder) else None
    return vocab if system is None else vocab.with_system(system)


def _read(folder: Path, layout: Layout | None) -> Vocabulary:
    language = None if layout else asked_by_template(folder)
    if language is not None:
        words = read_chat_words(folder, _NEEDED)
        return Vocabulary(words, ChatTemplate(words.tokenizer, language))
    wanted = layout.tokens if layout else ADDED
    vocab = Vocabulary(read_words(folder, wanted, layout.tokens if layout else _NEEDED))
    if layout:
        vocab.require(layout.ids(), layout.name, str(folder))
    return vocab


def asked_by_template(folder: Path) -> Language | None:
    """The family of a folder's language model if it is asked by its own chat template.

    None for LLaMA's own tokenizer, whose dialogue is Vicuna's. Raises WeightsError.
    """
    if not (folder / "config.json").is_file():
        return None
    if is_export(folder):
        language = read_model_file(folder).language.language()
    else:
        language = family(read_json(folder / "config.json", MAX_CONFIG).get("model_type", "llama"))
    return language if language is not LLAMA or chats(folder) else None


_NEEDED = (IM_START, IM_END, SEG)


def _one(known: dict[str, int], token: str) -> int:
    if token not in known:
        raise ConfigError(f"the tokenizer has no single id for {token}: add it as a special token")
    return known[token]
