"""Make a sentencepiece model of LLaMA's form (32,000 entries) from a few sentences.

Everything but the words is LLaMA's: BPE with byte fallback, no normalisation, a blank put in front,
<unk> <s> </s>, then 256 bytes, then runs of blanks that are merged last of all, single characters at
the end. Entries that the sentences do not fill are of sentencepiece's kind "unused".
"""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...pipeline.errors import MissingPackageError
from .key_mapping import LLAMA_VOCAB

_BLANKS = ("▁▁", "▁▁▁▁", "▁▁▁▁▁▁▁▁")
_LAST = -1e9  # score of what is merged only where nothing else can be
_TRAINED = 1_200
WORDS = """A chat between a curious human and an artificial intelligence assistant. The assistant
gives helpful, detailed, and polite answers to the human's questions. USER: The provides an overview
of the picture. ASSISTANT: Can you segment the in this image? Please segment in this image. What is
in this image? Please respond with segmentation mask. Please output segmentation mask. Could you
provide a segmentation mask for the in this image? Please identify and segment the in this image.
Where is the in this picture? Can you highlight the in this image with a segmentation mask? It is .
Sure, . Sure, it is . Sure, the segmentation result is . man woman boy girl person child on the left
right middle in front of behind next to red blue green yellow black white brown grey orange shirt
hat jacket dog cat horse cow sheep zebra elephant giraffe bear bird car bus truck train bike chair
table couch bed pizza cake sandwich bowl plate cup bottle holding wearing standing sitting looking
closest farthest second third from bottom top corner big small tall short disc square triangle
bag umbrella kid guy lady player batter catcher with without facing away toward us camera number
0 1 2 3 4 5 6 7 8 9 a b c d e f g h i j k l m n o p q r s t u v w x y z - ' " ( ) / ! ; & + #
A B C D E F G H I J K L M N O P Q R S T U V W X Y Z
""".splitlines()


def write_sentencepiece(path: Path, lines: Iterable[str] = WORDS) -> None:
    """Write `path`, the same bytes each time with one version of sentencepiece.

    Raises MissingPackageError without sentencepiece and protobuf.
    """
    try:
        import sentencepiece
        from sentencepiece import sentencepiece_model_pb2

        schema: Any = sentencepiece_model_pb2
    except ImportError:
        raise MissingPackageError(
            "sentencepiece and protobuf", "train", "writing a tokenizer.model"
        ) from None

    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*lines] * 4), model_writer=trained, model_type="bpe",
        vocab_size=_TRAINED, hard_vocab_limit=False, byte_fallback=True, split_digits=True,
        character_coverage=1.0, normalization_rule_name="identity", add_dummy_prefix=True,
        remove_extra_whitespaces=False, num_threads=1, minloglevel=2,
    )  # fmt: skip
    model: Any = schema.ModelProto()
    model.ParseFromString(trained.getvalue())
    pieces = list(model.pieces)
    kind = schema.ModelProto.SentencePiece
    first = next(n for n, piece in enumerate(pieces) if piece.type == kind.NORMAL)
    ends = first + sum(len(piece.piece) > 1 for piece in pieces[first:])  # merges, then characters
    blanks = [kind(piece=blank, score=_LAST, type=kind.NORMAL) for blank in _BLANKS]
    unused = [
        kind(piece=f"<unused{n}>", score=_LAST, type=kind.UNUSED)
        for n in range(LLAMA_VOCAB - len(pieces) - len(blanks))
    ]
    del model.pieces[:]
    model.pieces.extend([*pieces[:first], *blanks, *pieces[first:ends], *unused, *pieces[ends:]])
    path.write_bytes(model.SerializeToString(deterministic=True))
