"""Fit the prior of worth: which superpixels expressions are about, from annotated targets.

Logistic regression with a soft label, the best IoU of a superpixel with any target of its image.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import binary_cross_entropy_with_logits

from ...pipeline.cache.worth import Prior
from ...pipeline.display import counted
from ...pipeline.errors import DataError
from .budget_curves import Scene

RIDGE = 1e-3  # of the squared weights of standardised values
ROUNDS = 200
LEAST = 1e-6


def labels(scene: Scene) -> NDArray[np.float32]:
    """(N,) the best IoU of each superpixel with a target of its image."""
    member = scene.member.T.astype(np.int64)
    hit, false = scene.inside @ member, scene.outside @ member
    whole = scene.inside.sum(axis=1, keepdims=True)
    best: NDArray[np.float32] = (hit / np.maximum(whole + false, 1)).max(axis=0).astype(np.float32)
    return best


def fit_prior(
    means: Sequence[NDArray[np.float16]],
    traits: Sequence[NDArray[np.float64]],
    wanted: Sequence[NDArray[np.float32]],
) -> Prior:
    """The prior of images with means (N,C), traits (N,T) and labels (N,) of their superpixels.

    Raises DataError if no superpixel meets a target, or all do: there is nothing to tell apart.
    """
    values = np.hstack([np.concatenate(means).astype(np.float64), np.concatenate(traits)])
    label = torch.from_numpy(np.concatenate(wanted)).double()
    if float(label.std(correction=0)) < LEAST:
        raise DataError(
            f"{counted(len(label), 'superpixel')} with the same best IoU {float(label.mean()):.2f} with a "
            "target: there is nothing to learn a prior from: name data with expressions and masks"
        )
    centre, spread = values.mean(axis=0), values.std(axis=0)
    spread = np.where(spread < LEAST, 1.0, spread)
    x = torch.from_numpy((values - centre) / spread)
    weight = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=ROUNDS, tolerance_grad=1e-7, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = binary_cross_entropy_with_logits(x @ weight + bias, label)
        loss = loss + RIDGE * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    # Of values as they are stored.
    own = weight.detach().numpy() / spread
    constant = float(bias.detach()) - float(own @ centre)
    return Prior(np.append(own, constant).astype(np.float32))
