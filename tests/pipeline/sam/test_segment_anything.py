"""The adapter over `modeling.Sam`: bit-equal to `SamPredictor` in exact mode, close in fast mode."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from segment_anything import SamPredictor

from svp.pipeline.errors import WeightsError
from svp.pipeline.sam import segment_anything
from svp.pipeline.sam.segment_anything import SamPackage

Photo = NDArray[np.uint8]


def published(sam: Any, image: Photo, clicks: torch.Tensor) -> Sequence[torch.Tensor]:
    """(features, low-res logits, IoU) of the package's own predictor."""
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    labels = torch.ones(len(clicks), 1, dtype=torch.int)
    _, iou, logits = predictor.predict_torch(
        clicks[:, None], labels, multimask_output=True, return_logits=True
    )
    return predictor.features[0], logits, iou


@pytest.mark.parametrize("count", [1, 5, 12])
def test_exact_is_bit_equal_to_the_predictor(
    small_sam: Any, photo: Photo, clicks: torch.Tensor, count: int
) -> None:
    features, logits, iou = published(small_sam, photo, clicks[:count])
    backend = SamPackage(small_sam)
    ours = backend.embed([photo])
    assert torch.equal(ours[0], features)
    got_logits, got_iou = backend.decode(ours[0], clicks[:count])
    assert torch.equal(got_logits, logits)
    assert torch.equal(got_iou, iou)
    assert got_logits.shape == (count, 3, 64, 64)
    assert got_logits.std() > 0.1, "a dead model would make equality meaningless"


def test_exact_decodes_in_even_groups_and_stays_bit_equal(
    small_sam: Any, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    clicks = torch.rand(37, 2, generator=torch.Generator().manual_seed(3)) * 256
    features, logits, iou = published(small_sam, photo, clicks)
    sizes: list[int] = []
    decoder = small_sam.mask_decoder.transformer
    hook = decoder.register_forward_hook(lambda _, args, out: sizes.append(len(out[0])))
    monkeypatch.setattr(segment_anything, "CPU_GROUP_BYTES", 0)
    got_logits, got_iou = SamPackage(small_sam).decode(features, clicks)
    hook.remove()
    assert sizes == [8, 8, 7, 7, 7], "a last group of few prompts would round otherwise"
    assert torch.equal(got_logits, logits)
    assert torch.equal(got_iou, iou)


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_only_wanted_prompts_get_masks(
    small_sam: Any, photo: Photo, clicks: torch.Tensor, mode: Any
) -> None:
    """The same ones as among all: bit for bit in exact mode."""
    backend = SamPackage(copy.deepcopy(small_sam), mode=mode)
    features = backend.embed([photo])[0]
    every, iou = backend.decode(features, clicks)
    sizes: list[int] = []
    convolution = backend.sam.mask_decoder.output_upscaling[0]
    hook = convolution.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    for limit in sorted(iou.amax(1).tolist()):  # 11 of 12 prompts, 10, ... 1, none

        def wanted(scores: torch.Tensor, limit: float = limit) -> torch.Tensor:
            return scores.amax(1) > limit

        sizes.clear()
        kept, all_scores = backend.decode(features, clicks, wanted)
        chosen = wanted(iou)
        assert len(kept) == chosen.sum()
        assert sum(sizes) <= len(kept) + 2, "a lone one of either group of 6 is made twice"
        assert torch.equal(all_scores, iou)
        if mode == "exact":
            assert torch.equal(kept, every[chosen])
        assert ((kept - every[chosen]).abs() <= 1e-5 * every.abs().max()).all()
        assert kept.shape[1:] == every.shape[1:]
    hook.remove()


def test_exact_features_do_not_depend_on_the_batch(small_sam: Any, photo: Photo) -> None:
    backend = SamPackage(small_sam)
    others = [photo[:, ::-1].copy(), photo[:100, :60].copy()]
    together = backend.embed([others[0], photo, others[1]])
    assert torch.equal(together[1], backend.embed([photo])[0])


@pytest.mark.parametrize(("mode", "seen"), [("exact", [(1, False)] * 2), ("fast", [(2, True)])])
def test_what_the_encoder_sees(small_sam: Any, photo: Photo, mode: Any, seen: list[Any]) -> None:
    """(batch size, whether cuDNN may round to TF32) of each encoder call."""
    calls: list[tuple[int, bool]] = []

    def note(_: Any, inputs: tuple[torch.Tensor]) -> None:
        calls.append((len(inputs[0]), bool(torch.backends.cudnn.allow_tf32)))

    before = torch.backends.cudnn.allow_tf32
    hook = small_sam.image_encoder.patch_embed.register_forward_pre_hook(note)
    try:
        SamPackage(small_sam, mode=mode).embed([photo, photo])
    finally:
        hook.remove()
    assert calls == seen
    assert torch.backends.cudnn.allow_tf32 == before


def test_fast_float32_differs_by_rounding_only(
    small_sam: Any, photo: Photo, clicks: torch.Tensor
) -> None:
    features, logits, iou = published(small_sam, photo, clicks)
    fast = SamPackage(small_sam, mode="fast")
    ours = fast.embed([photo, photo[::-1].copy()])
    assert (ours[0] - features).abs().max() <= 1e-5 * features.abs().max()
    got_logits, got_iou = fast.decode(features, clicks)
    assert (got_logits - logits).abs().max() <= 1e-5 * logits.abs().max()
    assert (got_iou - iou).abs().max() <= 1e-5 * iou.abs().max()


def test_bfloat16_stays_close_and_returns_float32(
    small_sam: Any, photo: Photo, clicks: torch.Tensor
) -> None:
    _, logits, _ = published(small_sam, photo, clicks)
    fast = SamPackage(copy.deepcopy(small_sam), mode="fast", dtype="bfloat16")
    features = fast.embed([photo])
    got, iou = fast.decode(features[0], clicks)
    assert features.dtype == got.dtype == iou.dtype == torch.float32
    error = (got - logits).square().mean().sqrt() / logits.std()
    # bfloat16 has 8 mantissa bits; with bfloat16 prompt codes this error is several times larger.
    assert 0 < error < 0.05


def test_decode_leaves_no_graph_and_weights_frozen(
    small_sam: Any, photo: Photo, clicks: torch.Tensor
) -> None:
    for mode in ("exact", "fast"):
        backend = SamPackage(small_sam, mode=mode)
        logits, iou = backend.decode(backend.embed([photo])[0].requires_grad_(), clicks)
        assert not logits.requires_grad
        assert not iou.requires_grad
    assert not any(parameter.requires_grad for parameter in small_sam.parameters())


def test_overflow_in_the_encoder_is_an_error(photo: Photo) -> None:
    from svp.pipeline.sam.tiny import build_tiny_sam

    sam = build_tiny_sam()
    with torch.no_grad():
        sam.image_encoder.patch_embed.proj.bias.fill_(float("inf"))
    with pytest.raises(WeightsError, match="NaN or infinity"):
        SamPackage(sam).embed([photo])
