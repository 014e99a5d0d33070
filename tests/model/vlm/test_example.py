"""The example of docs/integration.md, on folders of random models with processors of their own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLProcessor,
)
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

import svp

from .conftest import IDS, IMAGE, build_llava, build_qwen3_vl

DOCUMENT = Path(svp.__file__).parent / "docs" / "integration.md"
WORDS = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "look": 9, ":": 10, "what": 11}


def tokenizer(special: dict[str, int]) -> PreTrainedTokenizerFast:
    words = WORDS | special
    words |= {f"w{i}": i for i in range(40) if i not in words.values()}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        unk_token="<unk>", extra_special_tokens=list(special),
    )  # fmt: skip


def llava(folder: Path) -> str:
    build_llava().save_pretrained(folder)
    crop = {"height": 32, "width": 32}
    LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=crop),
        tokenizer({"<image>": IMAGE}),
        patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    return "look : <image> what"


def qwen3_vl(folder: Path) -> str:
    build_qwen3_vl().save_pretrained(folder)
    special = {"<|image_pad|>": IMAGE, "<|video_pad|>": IDS["video_token_id"]}
    special |= {"<|vision_start|>": IDS["vision_start_token_id"]}
    special |= {"<|vision_end|>": IDS["vision_end_token_id"]}
    Qwen3VLProcessor(
        Qwen2VLImageProcessor(
            patch_size=4, merge_size=2, size={"shortest_edge": 256, "longest_edge": 4096}
        ),
        tokenizer(special),
        Qwen3VLVideoProcessor(patch_size=4, merge_size=2),
    ).save_pretrained(folder)
    return "look <|vision_start|> <|image_pad|> <|vision_end|> what"


@pytest.mark.parametrize("make", [llava, qwen3_vl])
def test_the_printed_example_runs(
    make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    prompt = make(tmp_path / "model")
    photograph = tmp_path / "photo.png"
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:, 40:] = (250, 20, 20)
    Image.fromarray(pixels).save(photograph)
    code = next(
        block.split("```")[0]
        for block in DOCUMENT.read_text("utf-8").split("```python\n")
        if "def describe" in block
    )
    space: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "describe.py", "exec"), space)  # noqa: S102 - it is what a user pastes
    slic = svp.build_generator(svp.SuperpixelConfig(source="slic", slic={"n_segments": 5}))
    answer = space["describe"](str(tmp_path / "model"), str(photograph), prompt, slic)
    assert answer.split()
    before, after = (int(word) for word in capsys.readouterr().out.split() if word.isdigit())
    assert after < before
