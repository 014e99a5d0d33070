"""LLaMA tokenizers from `tokenizer.model` or `tokenizer.json`, whatever the folder's model_type.

transformers' AutoTokenizer chooses a class by the folder's `model_type`; GLaMM's and LISA's folders
say "llava", for which it makes a tokenizer without LLaMA's leading "▁". And a `tokenizer.model`
converted by transformers 5 merges runs of blanks first, which sentencepiece (and so transformers
4.28's slow tokenizer, which GLaMM and LISA were trained with) does last. So nothing is guessed here:
text is encoded by sentencepiece itself, and the converted tokenizer ranks merges by its scores.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from ...pipeline.display import show
from ...pipeline.errors import MissingError, MissingPackageError, WeightsError
from ...pipeline.weights.file_checks import read_json, regular_size

MODEL, JSON = "tokenizer.model", "tokenizer.json"
ADDED_FILE, CONFIG, SPECIAL_MAP = (
    "added_tokens.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
LIMIT = 64 << 20  # bytes; LLaMA's own files have 0.5 and 1.8 MB
_MAX_ADDED = 1 << 16
Encode = Callable[[str], Sequence[int]]


@dataclass(frozen=True)
class Words:
    """A tokenizer as read.

    tokenizer  of transformers, which an export writes
    encode     ids of one piece of plain text, without <s>
    base       entries before the first added token; of a chat tokenizer, before the first of ours
    added      added tokens and their ids, ascending
    """

    tokenizer: Any
    encode: Encode
    base: int
    added: Mapping[str, int]

    def adding(self, token: str) -> "Words":
        """The same with one more special token, after all others."""
        from tokenizers import AddedToken

        self.tokenizer.add_tokens([AddedToken(token, special=True, normalized=False)])
        number = self.tokenizer.convert_tokens_to_ids(token)
        return replace(self, added={**self.added, token: number})


def read_words(folder: Path, wanted: Sequence[str], needed: Sequence[str]) -> Words:
    """The tokenizer of a folder, whatever its config.json says.

    wanted  tokens to add, in this order, after those the folder has, if one of `needed` is missing

    Raises MissingError (no such folder, no tokenizer in it), WeightsError (damaged; ids that
    contradict each other), MissingPackageError (tokenizer.model without sentencepiece).
    """
    if not folder.is_dir():
        raise MissingError(f"{show(str(folder), 300)}: no such tokenizer folder")
    core, encode, base = _core(folder)
    added = _added(folder, base)
    if not set(needed) <= added.keys() | base.keys():
        first = 1 + max([len(base) - 1, *added.values()])
        new = [token for token in wanted if token not in added and token not in base]
        added |= {token: first + n for n, token in enumerate(new)}
    later = {
        token: n for token, n in sorted(added.items(), key=lambda row: row[1]) if n >= len(base)
    }
    if gaps := set(range(len(base), len(base) + len(later))) - set(later.values()):
        _refuse(folder, f"added tokens leave id {min(gaps)} out; ids have to follow each other")

    def plain(text: str) -> Any:
        return core.encode(text, add_special_tokens=False).ids

    return Words(_wrap(core, later), encode or plain, len(base), later)


def _core(folder: Path) -> tuple[Any, Encode | None, dict[str, int]]:
    """A `tokenizers.Tokenizer`, sentencepiece's own encoder where there is one, and base entries."""
    model, file = folder / MODEL, folder / JSON
    if model.exists() and (find_spec("sentencepiece") or not file.exists()):
        return _from_sentencepiece(model)
    if file.exists():
        return from_json(file)
    raise MissingError(
        f"{show(str(folder), 300)}: no tokenizer in this folder; looked for {MODEL} and {JSON}: take "
        "them from where the weights came from"
    )


def _from_sentencepiece(path: Path) -> tuple[Any, Encode, dict[str, int]]:
    try:
        import sentencepiece
    except ImportError:
        raise MissingPackageError("sentencepiece", "train", f"a {MODEL}") from None
    regular_size(path, LIMIT)
    try:
        model = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
        count = model.get_piece_size()
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        _refuse(path, f"not a sentencepiece model ({show(str(error), 100)}): get the file again")
    pieces = {model.id_to_piece(n): n for n in range(count)}
    for token in ("<unk>", "<s>", "</s>"):
        if token not in pieces:
            _refuse(path, f"no entry {token}: LLaMA's tokenizer has <unk>, <s> and </s>")

    def encode(text: str) -> Sequence[int]:
        ids: Sequence[int] = model.encode(text)
        return ids

    return _converted(model, pieces), encode, pieces


def _converted(model: Any, pieces: Mapping[str, int]) -> Any:
    """The same as a `tokenizers` BPE: a pair of entries may merge into a third; best scores first."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors

    plain = {p: n for p, n in pieces.items() if not _is_special(model, n)}
    merges = []
    for piece, number in plain.items():
        score = model.get_score(number)
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in plain and right in plain:
                merges.append((-score, number, plain[left], plain[right], left, right))
    merges.sort()
    core = Tokenizer(
        models.BPE(
            vocab=dict(pieces), merges=[row[4:] for row in merges], unk_token="<unk>",
            fuse_unk=True, byte_fallback=True,
        )
    )  # fmt: skip
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    bos = ("<s>", pieces["<s>"])
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[bos]
    )
    return core


def _is_special(model: Any, number: int) -> bool:
    return bool(
        model.is_unknown(number)
        or model.is_control(number)
        or model.is_unused(number)
        or model.is_byte(number)
    )


def from_json(path: Path) -> tuple[Any, None, dict[str, int]]:
    """A `tokenizers.Tokenizer` from its own file, and its entries without added tokens."""
    from tokenizers import Tokenizer

    regular_size(path, LIMIT)
    try:
        core = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 (the library raises no narrower class)
        _refuse(path, f"no tokenizer can be read ({show(str(error), 100)}): get the file again")
    return core, None, core.get_vocab(with_added_tokens=False)


def _added(folder: Path, base: Mapping[str, int]) -> dict[str, int]:
    """Tokens that the folder's files add to its model, with the ids they state.

    A token the model has itself (Vicuna's files list <s>) must keep its id. Raises WeightsError.
    """
    found: dict[str, int] = {}
    taken: dict[int, str] = {n: token for token, n in base.items()}
    for name, tokens in _stated(folder):
        for token, number in tokens.items():
            if type(number) is not int or not 0 <= number < len(base) + _MAX_ADDED:
                _refuse(folder / name, f"{show(token)} has id {show(number)}, which is none")
            before = found.get(token, base.get(token, number))
            if before != number:
                _refuse(
                    folder / name,
                    f"{show(token)} has id {number} here and {before} in another file: take all "
                    "tokenizer files from one folder",
                )
            if taken.setdefault(number, token) != token:
                _refuse(
                    folder / name,
                    f"id {number} is {show(token)} here and {show(taken[number])} elsewhere: take "
                    "all tokenizer files from one folder",
                )
            if token not in base:
                found[token] = number
    return found


def _stated(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Added tokens and ids by file, in the order in which files are believed."""
    rows: list[tuple[str, dict[str, Any]]] = []
    if (folder / ADDED_FILE).exists():
        rows.append((ADDED_FILE, dict(read_json(folder / ADDED_FILE, LIMIT))))
    if (folder / CONFIG).exists():
        decoder = read_json(folder / CONFIG, LIMIT).get("added_tokens_decoder") or {}
        if not isinstance(decoder, dict):
            _refuse(folder / CONFIG, "added_tokens_decoder is not an object")
        rows.append((CONFIG, {_content(t): _number(n) for n, t in decoder.items()}))
    if (folder / JSON).exists():
        listed = read_json(folder / JSON, LIMIT).get("added_tokens") or []
        if not isinstance(listed, list) or not all(isinstance(row, dict) for row in listed):
            _refuse(folder / JSON, "added_tokens is not a list of objects")
        rows.append((JSON, {_content(row): row.get("id") for row in listed}))
    return rows


def _content(token: Any) -> str:
    return str(token.get("content", "") if isinstance(token, dict) else token)


def _number(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text


def _wrap(core: Any, added: Mapping[str, int]) -> Any:
    """As transformers' own class, so that an export's files are read by AutoTokenizer."""
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    known = core.get_vocab()
    own = [token for token in ("<unk>", "<s>", "</s>") if token in known]
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in (*own, *added)])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        pad_token="<unk>", clean_up_tokenization_spaces=False,
    )  # fmt: skip


def _refuse(path: Path, why: str) -> NoReturn:
    raise WeightsError(f"{show(str(path), 300)}: {why}")
