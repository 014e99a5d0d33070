"""The mask head against segment_anything's own modules, which are the oracle."""

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from svp.model.batch import Batch, MaskLayout
from svp.model.mask_head import MaskHead, upscale
from svp.model.ris import RisModel
from svp.pipeline.sam.mask_decoder import decode_single
from svp.pipeline.sam.tiny import build_tiny_sam

IMAGES = (0, 0, 1, 2, 2)  # of five prompts


@pytest.fixture(scope="module")
def tiny() -> MaskHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sam = build_tiny_sam()
    return MaskHead(sam.prompt_encoder, sam.mask_decoder.train())


def layout(batch: Callable[..., Batch], sam: Tensor, images: tuple[int, ...]) -> MaskLayout:
    made = batch((1,) * len(sam), sizes=((20, 32),) * len(sam))
    return MaskLayout.of(replace(made, sam=sam, square=128), images)


def published(head: MaskHead, prompts: Tensor, sam: Tensor, images: tuple[int, ...]) -> Tensor:
    """Low-resolution logits by `MaskDecoder.forward`, image by image."""
    encoder = head.prompt_encoder
    dense = encoder.no_mask_embed.weight.view(1, -1, 1, 1).expand(1, -1, *sam.shape[-2:])
    found = [
        head.decoder(
            image_embeddings=sam[image : image + 1],
            image_pe=encoder.get_dense_pe().to(sam.dtype),
            sparse_prompt_embeddings=prompts[k].view(1, 1, -1),
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )[0]
        for k, image in enumerate(images)
    ]
    return torch.cat(found)[:, 0]


def gradients(head: MaskHead, low: Tensor, prompts: Tensor) -> dict[str, Tensor]:
    """Of a loss that no mask is left out of, by name."""
    head.zero_grad()
    weight = torch.linspace(-1, 1, low.numel(), dtype=low.dtype).view(low.shape)
    (low * weight).sum().backward()
    found = {name: p.grad for name, p in head.decoder.named_parameters() if p.grad is not None}
    assert prompts.grad is not None
    return {"prompts": prompts.grad, **found}


@pytest.mark.parametrize("images", [IMAGES, (0, 1, 2), (1, 1)])
def test_masks_and_gradients_are_those_of_sam_s_decoder(
    tiny: MaskHead, batch: Callable[..., Batch], images: tuple[int, ...]
) -> None:
    """For every prompt its image, whether images have as many prompts or not, float32."""
    make = torch.Generator().manual_seed(1)
    sam = torch.randn(3, 64, 16, 16, generator=make)
    start = torch.randn(len(images), 64, generator=make)
    ours, theirs = (start.clone().requires_grad_() for _ in range(2))
    low = tiny(ours, layout(batch, sam, images), sam)
    wanted = published(tiny, theirs, sam, images)
    assert (low - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    found, expected = gradients(tiny, low, ours), gradients(tiny, wanted, theirs)
    silent = {n for n in expected.keys() - found.keys() if not n.endswith("k_proj.bias")}
    assert {n for n in silent if not n.startswith(("iou_", "output_hypernetworks_mlps."))} == set()
    for name, grad in found.items():
        assert (grad - expected[name]).abs().max() <= 1e-4 * expected[name].abs().max() + 1e-5, name


def test_the_algebra_is_exact(tiny: MaskHead) -> None:
    """In float64 nothing is left of the differences: two prompts for each of two images."""
    make = torch.Generator().manual_seed(2)
    decoder = build_tiny_sam().mask_decoder.double()
    decoder.load_state_dict(tiny.decoder.state_dict())
    pe = tiny.prompt_encoder.get_dense_pe().double()
    features = torch.randn(2, 64, 16, 16, generator=make, dtype=torch.float64)
    sparse = torch.randn(4, 1, 64, generator=make, dtype=torch.float64)
    low = decode_single(decoder, features, pe, sparse)
    for k in range(4):
        image = features[k // 2 : k // 2 + 1]
        wanted, _ = decoder(image, pe, sparse[k : k + 1], torch.zeros_like(image), False)
        torch.testing.assert_close(low[k], wanted[0, 0], rtol=1e-10, atol=1e-10)


def test_places_are_those_of_the_prompt_encoder(tiny: MaskHead) -> None:
    torch.testing.assert_close(
        tiny._places(), tiny.prompt_encoder.get_dense_pe(), rtol=1e-5, atol=1e-5
    )


def test_bfloat16_is_as_near_to_float32_as_that_of_sam_s_decoder(
    tiny: MaskHead, batch: Callable[..., Batch]
) -> None:
    """Weights cast at once instead of by autocast: values and gradients, these float32 again."""
    make = torch.Generator().manual_seed(3)
    sam = torch.randn(3, 64, 16, 16, generator=make)
    start = torch.randn(len(IMAGES), 64, generator=make)
    masks = layout(batch, sam, IMAGES)

    def run(ours: bool, half: bool) -> dict[str, Tensor]:
        prompts = start.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            low = tiny(prompts, masks, sam) if ours else published(tiny, prompts, sam, IMAGES)
        return {"masks": low.detach().float(), **gradients(tiny, low.float(), prompts)}

    single, ours, theirs = run(True, False), run(True, True), run(False, True)
    assert ours.keys() == single.keys()
    errors = {
        name: [float((found[name] - exact).norm()) for found in (ours, theirs)]
        for name, exact in single.items()
    }
    assert all(x.dtype == torch.float32 for x in ours.values())
    for name in ("masks", "prompts", "mask_tokens.weight", "output_upscaling.0.weight"):
        assert errors[name][0] <= 1.5 * errors[name][1] > 0, name
    total = [sum(both[k] for both in errors.values()) for k in (0, 1)]
    assert total[0] <= 1.2 * total[1]


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (1, 300), (1500, 1000)])
def test_upscaling_is_sam_s_postprocessing(batch: Callable[..., Batch], size: Any) -> None:
    """Beside a photograph of another size, beyond which the logits are 0."""
    from segment_anything.modeling import Sam
    from segment_anything.utils.transforms import ResizeLongestSide

    low = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0))
    masks = batch((1, 1), sizes=(size, (700, 650))).layout.masks
    found = upscale(low, masks)
    assert found.shape == (2, max(size[0], 700), max(size[1], 650))
    assert not found[0, size[0] :].any() and not found[0, :, size[1] :].any()
    resized = ResizeLongestSide.get_preprocess_shape(*size, 64)
    if 0 in resized:  # SAM itself cannot
        return

    class Encoder(torch.nn.Module):
        img_size = 64

    sam = Sam(Encoder(), torch.nn.Identity(), torch.nn.Identity())
    wanted = sam.postprocess_masks(low[:1, None], resized, size)[0, 0]
    assert (found[0, : size[0], : size[1]] - wanted).abs().max() <= 1e-5


def test_embeddings_of_another_sam_are_refused(
    micro: Callable[..., RisModel], batch: Callable[..., Batch]
) -> None:
    with pytest.raises(ValueError, match="SAM embeddings of 1024 pixels, mask head of 64"):
        micro()(replace(batch((1,)), square=1024))


def test_weights_that_zero_3_splits_are_used_by_calls_of_their_modules(
    tiny: MaskHead, batch: Callable[..., Batch]
) -> None:
    """DeepSpeed marks them with `ds_id`; they are whole only while their module is called."""
    head, draw = copy.deepcopy(tiny), torch.Generator().manual_seed(1)
    sam = torch.randn(3, head.width, 16, 16, generator=draw)
    prompts = torch.randn(len(IMAGES), head.width, generator=draw)
    masks = layout(batch, sam, IMAGES)
    expected = head(prompts, masks, sam)
    called: list[str] = []
    for name, module in head.decoder.named_modules():
        module.register_forward_pre_hook(lambda *_, name=name: called.append(name))
    for parameter in head.decoder.parameters():
        parameter.ds_id = 0
    found = head(prompts, masks, sam)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    used = {name.rpartition(".")[0] for name, _ in head.decoder.named_parameters()}
    never = re.compile(r"iou_|mask_tokens|output_hypernetworks_mlps\.[^0]")
    assert {name for name in used if not never.match(name)} <= set(called)
