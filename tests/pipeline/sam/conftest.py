"""A small SAM with the official decoder: 256 px, 16x16 embedding, random but lively weights."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray


def lively(module: Any, seed: int) -> Any:
    """Random values of a trained model's spread, so that logits differ from prompt to prompt.

    The default initialisation leaves rel_pos and pos_embed at zero and would hide a wrong key.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if not tensor.is_floating_point() or name.endswith(
                "positional_encoding_gaussian_matrix"
            ):
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(1 + noise.abs())
            elif tensor.ndim > 1:
                tensor.copy_(noise * 1.2 / tensor[0].numel() ** 0.5)
            else:
                tensor.copy_(
                    (1.0 if "norm" in name and name.endswith("weight") else 0.0) + 0.1 * noise
                )
    return module


def make_small_sam(seed: int = 0) -> Any:
    from segment_anything.modeling import (
        ImageEncoderViT,
        MaskDecoder,
        PromptEncoder,
        Sam,
        TwoWayTransformer,
    )

    torch.manual_seed(seed)
    encoder = ImageEncoderViT(
        img_size=256,
        embed_dim=64,
        depth=2,
        num_heads=2,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        out_chans=256,
        use_rel_pos=True,
        window_size=14,
        global_attn_indexes=(1,),
    )
    prompts = PromptEncoder(
        embed_dim=256, image_embedding_size=(16, 16), input_image_size=(256, 256), mask_in_chans=16
    )
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    decoder = MaskDecoder(transformer_dim=256, transformer=transformer)
    return lively(Sam(encoder, prompts, decoder), seed).eval()


@pytest.fixture(scope="session")
def small_sam() -> Any:
    return make_small_sam()


@pytest.fixture(scope="session")
def photo() -> NDArray[np.uint8]:
    """(150,200,3): smooth colours with noise; neither square nor a multiple of anything."""
    rng = np.random.default_rng(5)
    waves = np.sin(np.linspace(0, 9, 150))[:, None, None] * np.cos(np.linspace(0, 7, 200))[:, None]
    pixels = 127 + 90 * waves + rng.normal(0, 20, (150, 200, 3))
    return pixels.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def clicks() -> torch.Tensor:
    """(12,2) float64 points in the resized frame."""
    generator = torch.Generator().manual_seed(2)
    return torch.rand(12, 2, generator=generator, dtype=torch.float64) * 190
