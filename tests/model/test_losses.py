"""Losses against the published GLaMM and LISA code, and against splitting a batch."""

from pathlib import Path

import numpy as np
import pytest
import torch

from svp.model.losses import Losses, Weights, mask_losses

CASES = np.load(Path(__file__).parents[1] / "fixtures" / "glamm" / "cases.npz")
NAMES = sorted({key.split("_")[0] for key in CASES.files if key.startswith("loss")})


def case(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(CASES[f"{name}_logits"]), torch.tensor(CASES[f"{name}_gt"]) > 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("code", ["glamm", "lisa"])
def test_one_image_equals_the_published_code(name: str, code: str) -> None:
    logits, target = case(name)
    bce, dice = mask_losses(logits, target)
    assert float(bce / len(logits)) == pytest.approx(float(CASES[f"{name}_{code}_bce"]), rel=1e-6)
    assert float(dice / len(logits)) == pytest.approx(float(CASES[f"{name}_{code}_dice"]), rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_total_and_gradient_of_two_images_equal_glamm(name: str) -> None:
    logits, target = case(name)
    logits.requires_grad_()
    bce, dice = mask_losses(torch.cat([logits, logits[:1]]), torch.cat([target, target[:1]]))
    losses = Losses(torch.tensor(0.75 * 7), bce, dice, 7, len(logits) + 1)
    total = losses.total(Weights())
    total.backward()
    assert float(total.detach()) == pytest.approx(float(CASES[f"{name}_total_loss"]), rel=1e-6)
    wanted = torch.tensor(CASES[f"{name}_total_grad"])
    assert logits.grad is not None
    assert (logits.grad - wanted).abs().max() <= 1e-6 * wanted.abs().max()


def test_a_global_batch_has_one_loss_however_it_is_split() -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, 9, 7, dtype=torch.float64)
    target = torch.rand(5, 9, 7) > 0.5
    ce = torch.rand(11, dtype=torch.float64)

    def part(masks: slice, tokens: slice) -> Losses:
        bce, dice = mask_losses(logits[masks], target[masks])
        return Losses(ce[tokens].sum(), bce, dice, len(ce[tokens]), len(logits[masks]))

    whole = part(slice(0, 5), slice(0, 11)).total(Weights())
    halves = [part(slice(0, 1), slice(0, 8)), part(slice(1, 5), slice(8, 11))]
    split = sum((h.total(Weights(), tokens=11, masks=5) for h in halves), torch.zeros(()))
    assert float(split) == pytest.approx(float(whole), rel=1e-12)


def test_a_wrong_pixel_raises_both_terms() -> None:
    target = torch.zeros(1, 4, 4, dtype=torch.bool)
    target[0, :2] = True
    right = torch.where(target, 5.0, -5.0)
    wrong = right.clone()
    wrong[0, 0, 0] = -5.0
    for good, bad in zip(mask_losses(right, target), mask_losses(wrong, target), strict=True):
        assert float(bad) > float(good) + 0.01


def test_an_empty_target_is_finite() -> None:
    logits = torch.full((1, 4, 4), -9.0, requires_grad=True)
    bce, dice = mask_losses(logits, torch.zeros(1, 4, 4, dtype=torch.bool))
    (bce + dice).backward()
    assert logits.grad is not None and bool(logits.grad.isfinite().all())


def test_pixels_beyond_a_photograph_change_nothing() -> None:
    """Padded to one size, masks of photographs of several sizes have the losses they have alone."""
    make = torch.Generator().manual_seed(0)
    sizes = ((5, 9), (8, 3), (8, 9))
    logits = [torch.randn(1, *size, generator=make, dtype=torch.float64) for size in sizes]
    targets = [torch.rand(1, *size, generator=make) > 0.5 for size in sizes]
    padded = torch.full((3, 8, 9), 0.0, dtype=torch.float64)
    beyond, truth = torch.ones(3, 8, 9, dtype=torch.bool), torch.zeros(3, 8, 9, dtype=torch.bool)
    for k, (height, width) in enumerate(sizes):
        padded[k, :height, :width], truth[k, :height, :width] = logits[k][0], targets[k][0]
        beyond[k, :height, :width] = False
    padded.requires_grad_()
    together = mask_losses(padded, truth, beyond)
    alone = [mask_losses(x, target) for x, target in zip(logits, targets, strict=True)]
    for found, parts in zip(together, zip(*alone, strict=True), strict=True):
        assert float(found.detach()) == pytest.approx(float(sum(parts)), rel=1e-12)
    torch.stack(together).sum().backward()
    assert padded.grad is not None and bool((padded.grad[beyond] == 0).all())
    assert bool((padded.grad[~beyond] != 0).all())


def test_the_gradient_is_that_of_the_losses() -> None:
    make = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(2, 3, 4, generator=make, dtype=torch.float64)
    truth = torch.rand(2, 3, 4, generator=make) > 0.5
    beyond = torch.zeros(2, 3, 4, dtype=torch.bool)
    beyond[1, 2:] = True
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: mask_losses(x, truth & ~beyond, beyond), logits)
