"""Make the tiny tokenizer: a LLaMA-style BPE over the words of the scenes and of the dialogues.

python workflows/pretrain_tiny/make_tokenizer.py     (the same file each time; --world 2: of world 2)
"""

import json
from collections.abc import Iterator
from pathlib import Path

import click

from svp.pipeline.datasets.scenes import make_scene
from svp.pipeline.datasets.world2.make import make_text

OUT = Path(__file__).parents[1] / "tiny"
FOLDERS = {1: OUT / "lm", 2: OUT / "world2" / "lm"}
SCENES, SEED, SIZE = 3000, 77, 800  # scenes read, their seed, entries of the vocabulary
SPECIAL = ("<unk>", "<s>", "</s>", "<im_start>", "<im_end>", "<bbox>", "<point>", "[SEG]", "<p>",
           "</p>")  # fmt: skip
# Each line is repeated so that its words become single entries beside the scenes' own words.
DIALOGUE = """A chat between a curious human and an artificial intelligence assistant.
The assistant gives helpful, detailed, and polite answers to the human's questions.
USER: The provides an overview of the picture. ASSISTANT: Can you segment the in this image?
Please segment in this image. What is in this image? Please respond with segmentation mask.
Please output segmentation mask. Could you provide a segmentation mask for the in this image?
Please identify and segment the in this image. Where is the in this picture?
Please respond with a segmentation mask. Can you highlight the in this image with a segmentation
It is . Sure, . Sure, it is . Sure, the segmentation result is .
What can be seen? There is a an and . How many are there? none one two three four five six seven
eight nine ten What is the colour texture shape size of the ? yes no
""".splitlines()


# What captions and answers of world 2 have beside.
CAPTIONS = """from left to right: from top to bottom: from left to right first: at the there is a an , and .
It is a . They are and . There is none . Please describe this image. What is where in this image?
""".splitlines()


def corpus(world: int) -> Iterator[str]:
    """Every text the tiny language model reads in training, once or more."""
    for index in range(SCENES):
        if world == 1:
            yield from (phrase.text for phrase in make_scene(SEED, index, "train").phrases)
            continue
        _, phrases, captions = make_text(SEED, index, "train", difficulty=25 * (index % 5))
        yield from (phrase.text for phrase in phrases)
        yield from captions
    for line in DIALOGUE if world == 1 else [*DIALOGUE, *CAPTIONS]:
        yield from [line] * 3000


@click.command(help=__doc__)
@click.option("--world", type=click.IntRange(1, 2), default=1, show_default=True)
def main(world: int) -> None:
    """Train and write the tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=[*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(world), trainer)
    raw = json.loads(tokenizer.to_str())
    # Bytes are ordinary entries, found by fallback: as special ones, decoding would drop them.
    raw["added_tokens"] = [t for t in raw["added_tokens"] if t["content"] in SPECIAL]
    out = FOLDERS[world] / "tokenizer.json"
    out.parent.mkdir(exist_ok=True, parents=True)
    out.write_text(json.dumps(raw, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
