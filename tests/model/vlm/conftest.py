"""Random models of each wrapped family, two layers deep."""

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

IMAGE = 5  # id of the placeholder
TEXT = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": 0}  # fmt: skip
IDS = {"image_token_id": IMAGE, "video_token_id": 6, "vision_start_token_id": 7,
       "vision_end_token_id": 8}  # fmt: skip


def build_llava() -> LlavaForConditionalGeneration:
    vision = CLIPVisionConfig(hidden_size=24, intermediate_size=32, num_hidden_layers=2,
                              num_attention_heads=2, image_size=32, patch_size=8)  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=LlamaConfig(**TEXT), image_token_id=IMAGE
    )
    return LlavaForConditionalGeneration(config)


def build_qwen2_vl() -> Qwen2VLForConditionalGeneration:
    vision = {"depth": 2, "embed_dim": 24, "hidden_size": 32, "num_heads": 2, "patch_size": 4,
              "mlp_ratio": 2}  # fmt: skip
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2]}
    return Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(text_config=TEXT | {"rope_scaling": rope}, vision_config=vision, **IDS)
    )


def build_qwen2_5_vl() -> Qwen2_5_VLForConditionalGeneration:
    vision = {"depth": 2, "hidden_size": 24, "intermediate_size": 32, "num_heads": 2,
              "patch_size": 4, "out_hidden_size": 32, "window_size": 16,
              "fullatt_block_indexes": [1]}  # fmt: skip
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2]}
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=TEXT | {"rope_scaling": rope}, vision_config=vision, **IDS)
    )


def build_qwen3_vl() -> Qwen3VLForConditionalGeneration:
    vision = {"depth": 3, "hidden_size": 24, "intermediate_size": 32, "num_heads": 2,
              "patch_size": 4, "out_hidden_size": 32, "num_position_embeddings": 16,
              "deepstack_visual_indexes": [0, 1]}  # fmt: skip
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    return Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(
            text_config=TEXT | {"rope_scaling": rope, "head_dim": 8}, vision_config=vision, **IDS
        )
    )


BUILD = {
    "llava": build_llava,
    "qwen2_vl": build_qwen2_vl,
    "qwen2_5_vl": build_qwen2_5_vl,
    "qwen3_vl": build_qwen3_vl,
}


@pytest.fixture(params=BUILD, scope="module")
def model(request: pytest.FixtureRequest) -> torch.nn.Module:
    torch.manual_seed(0)
    made: torch.nn.Module = BUILD[request.param]().eval()
    return made
