"""Click codes against segment_anything's prompt encoder, and what its decoder makes of them."""

import pytest
import torch

from svp.model.mask_head import click_codes, click_errors, inner_points
from svp.pipeline.sam.build import build_sam


def test_codes_are_those_of_the_published_prompt_encoder() -> None:
    encoder = build_sam("tiny").prompt_encoder
    points = torch.tensor([[3.5, 100.5], [64.0, 0.5], [127.5, 127.5]])
    labels = torch.ones(len(points), 1)
    # It moves a click to the middle of its pixel.
    sparse, _ = encoder(points=(points[:, None] - 0.5, labels), boxes=None, masks=None)
    mine = click_codes(encoder, points, encoder.input_image_size[0])
    torch.testing.assert_close(mine, sparse[:, 0], rtol=1e-5, atol=1e-5)


def test_points_are_the_pixels_of_a_mask_nearest_to_its_centre() -> None:
    masks = torch.zeros(3, 8, 10, dtype=torch.bool)
    masks[0, 2:5, 4:9] = True  # its centre is a pixel
    masks[1, 1:8, 1:8] = True
    masks[1, 2:7, 2:7] = False  # a frame: its centre is a hole
    points = inner_points(masks)
    assert points[0].tolist() == [6.5, 3.5]
    x, y = points[1].long().tolist()
    assert masks[1, y, x] and min(abs(x - 4), abs(y - 4)) == 0
    assert points[2].tolist() == pytest.approx([5, 4], abs=0.5)  # an empty mask: the middle


def test_no_place_has_an_error_of_one() -> None:
    encoder = build_sam("tiny").prompt_encoder
    side = encoder.input_image_size[0]
    points = side * torch.rand(4000, 2, generator=torch.Generator().manual_seed(0))
    codes = click_codes(encoder, points, side)
    nowhere = encoder.point_embeddings[1].weight.expand_as(codes)
    assert float(click_errors(nowhere, codes).mean().detach()) == pytest.approx(1, rel=1e-3)
    assert float(click_errors(codes, codes).sum().detach()) == 0
