"""A wrapped model equals the plain one when every patch is its own superpixel, else saves tokens."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import svp
from support.superpixel_grid import cells
from svp.model.projectors.svp.drop_in import SVPProjector
from svp.model.vlm.pool import pooling
from svp.pipeline.errors import ConfigError, DataError
from svp.pipeline.masks.encoder_view import View
from svp.pipeline.records import Superpixels

from .conftest import IMAGE, build_llava, build_qwen3_vl

GRIDS = [(4, 6), (4, 4)]  # merged patches of the two images; LLaVA's are squares
SMALL = {"num_queries": 2, "sspe_dim": 8, "sspe_heads": 2, "sspe_blocks": 1, "sspe_ffn": 16,
         "ssa_heads": 2, "ssa_blocks": 1, "ssa_ffn": 16, "mlp_hidden": 16}  # fmt: skip


def grids(model: Any) -> list[tuple[int, int]]:
    return [(4, 4), (4, 4)] if model.config.model_type == "llava" else GRIDS


def batch(model: Any, left: bool = False) -> dict[str, Tensor]:
    """As a processor gives it: two dialogues of different length about an image each."""
    made = torch.Generator().manual_seed(3)
    rows = []
    for start, (rows_, columns), end in zip(
        ([9, 10, 11], [9]), grids(model), ([20, 21], [22, 23]), strict=True
    ):
        rows.append([*start, *[IMAGE] * (rows_ * columns), *end])
    longest = max(map(len, rows))
    pad = [(row, [0] * (longest - len(row))) for row in rows]
    ids = torch.tensor([gap + row if left else row + gap for row, gap in pad])
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    if model.config.model_type == "llava":
        return inputs | {"pixel_values": torch.randn(2, 3, 32, 32, generator=made)}
    sizes = torch.tensor([[1, 2 * h, 2 * w] for h, w in GRIDS])
    patches = torch.randn(int(sizes.prod(1).sum()), 3 * 2 * 4 * 4, generator=made)
    return inputs | {
        "pixel_values": patches,
        "image_grid_thw": sizes,
        "mm_token_type_ids": (ids == IMAGE).int(),
    }


def one_per_patch(model: Any) -> list[Superpixels]:
    return [cells((8 * h, 8 * w), h, w) for h, w in grids(model)]


@pytest.mark.parametrize("left", [False, True])
def test_one_superpixel_per_patch_is_the_plain_model(model: Any, left: bool) -> None:
    inputs, wrapped = batch(model, left), svp.wrap(model)
    labels = inputs["input_ids"].where(inputs["attention_mask"] == 1, -100)
    labels = labels.where(labels != IMAGE, -100)
    with torch.inference_mode():
        plain = model(**inputs, labels=labels)
        ours = wrapped(**inputs, labels=labels, superpixels=one_per_patch(model))
    real = inputs["attention_mask"] == 1
    assert torch.allclose(plain.logits[real], ours.logits[real], atol=1e-5)
    assert torch.allclose(plain.loss, ours.loss, atol=1e-6)


def test_generation_is_the_plain_model_s(model: Any) -> None:
    inputs, wrapped = batch(model, left=True), svp.wrap(model)
    options = {"max_new_tokens": 6, "do_sample": False}
    plain = model.generate(**inputs, **options)
    ours = wrapped.generate(**inputs, **options, superpixels=one_per_patch(model))
    assert plain.tolist() == ours.tolist()


def test_beams_and_two_pictures_in_one_text_are_the_plain_model_s(model: Any) -> None:
    """The pictures of a batch of two, one after the other in one text."""
    inputs, wrapped = batch(model), svp.wrap(model)
    ids = torch.cat([row[row != 0] for row in inputs["input_ids"]])[None]
    inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = (ids == IMAGE).int()
    options = {"max_new_tokens": 4, "do_sample": False, "num_beams": 2}
    plain = model.generate(**inputs, **options)
    ours = wrapped.generate(**inputs, **options, superpixels=one_per_patch(model))
    assert plain.tolist() == ours.tolist()
    short = wrapped.inputs([cells((32, 32), 1, 2), cells((32, 32), 2, 2)], **inputs)
    assert (short["input_ids"] == IMAGE).sum() == 6


def test_fewer_superpixels_are_fewer_tokens_at_their_centroids(model: Any) -> None:
    """Two halves of an image are two tokens; a token is the mean of its patches; text goes on."""
    inputs, wrapped = batch(model), svp.wrap(model)
    found = [cells((32, 32), 1, 2), cells((32, 32), 2, 2)]
    short = wrapped.inputs(found, **inputs)
    tokens = (short["input_ids"] == IMAGE).sum(1).tolist()
    assert tokens == [2, 4] and sum(h * w for h, w in grids(model)) > sum(tokens)
    text = [row[row != IMAGE][:5].tolist() for row in short["input_ids"]]
    assert text == [[9, 10, 11, 20, 21], [9, 22, 23]]
    assert short["attention_mask"].sum(1).tolist() == [7, 7]
    features = short["mm_encoder_outputs"]["image"].pooler_output
    assert [len(one) for one in features] == tokens
    with torch.inference_mode():
        assert model(**short).logits.isfinite().all()
        made = wrapped.generate(**inputs, superpixels=found, max_new_tokens=3, do_sample=False)
    assert made.shape[1] == short["input_ids"].shape[1] + 3
    if model.config.model_type == "llava":
        return
    rows, columns = GRIDS[0]
    everything = model.get_image_features(
        inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True
    )
    whole = everything.pooler_output[0].reshape(rows, columns, -1)
    assert torch.allclose(features[0][0], whole[:, : columns // 2].mean((0, 1)), atol=1e-5)
    if model.config.model_type == "qwen3_vl":
        deep = short["mm_encoder_outputs"]["image"].deepstack_features
        levels = [level[0].reshape(rows, columns, -1) for level in everything.deepstack_features]
        for ours, level in zip(deep, levels, strict=True):
            assert torch.allclose(ours[0][1], level[:, columns // 2 :].mean((0, 1)), atol=1e-5)
    # Row 0 is the place in the text; 4x6 patches: the halves' centroids are (1.5, 1) and (1.5, 4).
    assert short["position_ids"][:, 0].tolist() == [
        [0, 1, 2, 3, 4, 5, 6],
        [0, 1, 2, 3, 3, 9, 10],
        [0, 1, 2, 5, 5, 9, 10],
        [0, 1, 2, 4, 7, 9, 10],
    ]


def test_what_no_superpixel_covers_is_one_token() -> None:
    whole, view = cells((32, 32), 2, 2), View("squash", 1)
    from dataclasses import replace

    first = replace(
        whole,
        rles=whole.rles[:1],
        **{
            name: getattr(whole, name)[:1]
            for name in ("level", "predicted_iou", "stability", "area", "box", "point", "crop")
        },
    )
    features = torch.arange(16.0)[:, None]
    made = pooling(first, view, (4, 4), rest=True)
    quarter = torch.tensor([0.0, 1, 4, 5]).mean()
    assert made(features).flatten().tolist() == [quarter, (120 - 4 * quarter) / 12]
    assert len(pooling(first, view, (4, 4), rest=False)) == 1
    assert len(pooling(whole, view, (4, 4), rest=True)) == 4, "nothing is left over"


def test_a_projector_in_a_wrapped_llava_learns() -> None:
    """The prompt is always the same: only the tokens of the picture tell which answer is right."""
    torch.manual_seed(0)
    model = build_llava()
    model.model.vision_tower.requires_grad_(False)
    projector = SVPProjector(in_dim=24, llm_dim=32, size=32, view="clip", **SMALL)
    wrapped = svp.wrap(model, projector=projector)
    pixels = torch.randn(8, 3, 32, 32)
    ids = torch.tensor([[9, *[IMAGE] * 16, 10, 24 + i] for i in range(8)])
    labels = torch.full_like(ids, -100)
    labels[:, -1] = ids[:, -1]
    found = [cells((32, 32), 2, 2)] * 8
    optimiser = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(80):
        loss = wrapped(input_ids=ids, labels=labels, pixel_values=pixels, superpixels=found).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 2 and losses[-1] < 0.5
    assert wrapped.inputs(found, input_ids=ids, pixel_values=pixels)["input_ids"].shape == (8, 7)


def test_what_does_not_fit_is_refused(model: Any) -> None:
    inputs, wrapped, found = batch(model), svp.wrap(model), one_per_patch(model)
    with pytest.raises(DataError, match="superpixels of 1 image for 2 images"):
        wrapped(**inputs, superpixels=found[:1])
    with pytest.raises(DataError, match="input_ids and pixel_values"):
        wrapped(input_ids=inputs["input_ids"], superpixels=found)
    with pytest.raises(DataError, match="a video can't be given"):
        wrapped(**inputs, pixel_values_videos=inputs["pixel_values"], superpixels=found)
    short = inputs | {name: inputs[name][:, 4:] for name in ("input_ids", "attention_mask")}
    with pytest.raises(DataError, match="image placeholders where 2 images of"):
        wrapped(**short, superpixels=found)
    split = inputs["input_ids"].clone()
    split[0, 4], split[0, 2] = 11, IMAGE  # as many as before, not one beside the other
    with pytest.raises(DataError, match="not one beside the other"):
        wrapped(**inputs | {"input_ids": split}, superpixels=found)


def test_models_that_are_not_known_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"a model of type 'bert': known are llava, qwen2_vl"):
        svp.wrap(SimpleNamespace(config=SimpleNamespace(model_type="bert")))
    with pytest.raises(ConfigError, match="LlavaModel has no head"):
        svp.wrap(build_llava().model)
    with pytest.raises(ConfigError, match="Qwen-VL has no projector of ours"):
        svp.wrap(build_qwen3_vl(), view="pad")
    other = SVPProjector(in_dim=24, llm_dim=32, size=64, **SMALL)
    with pytest.raises(ConfigError, match=r"images of 64 pixels, this model's have 32"):
        svp.wrap(build_llava(), projector=other)


def test_superpixels_outside_the_view_have_no_token() -> None:
    """LLaVA's processor crops: of a wide image the outer columns are never seen."""
    wide, view = cells((32, 96), 1, 6), View("clip", 32)
    made = pooling(wide, view, (4, 4), rest=True)
    assert len(made) == 2
    assert np.allclose(made.centre, [[1.5, 0.5], [1.5, 2.5]])
    with pytest.raises(DataError, match="no superpixel lies in the part"):
        left = cells((32, 96), 1, 6)
        from dataclasses import replace

        names = ("level", "predicted_iou", "stability", "area", "box", "point", "crop")
        cut = {name: getattr(left, name)[:1] for name in names}
        pooling(replace(left, rles=left.rles[:1], **cut), view, (4, 4), rest=False)
