"""Oracle curves against all unions, and the prior against labels that it can and cannot learn."""

from itertools import combinations

import numpy as np
import pytest

from svp.pipeline.cache.worth import TRAITS
from svp.pipeline.errors import DataError
from svp.pipeline.masks.rle import encode
from svp.pipeline.superpixels.budget import Described
from svp.pipeline.superpixels.budget.selector import Selector
from svp.train.evaluation.budget_curves import Scene, curves
from svp.train.evaluation.fit_prior import fit_prior, labels
from svp.train.evaluation.upper_bounds import Atoms

N = 5


def tiling(seed: int) -> tuple[Scene, np.ndarray, np.ndarray]:
    """A scene of disjoint superpixels with targets, its masks and targets."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, N + 1, (9, 8))  # N: under no superpixel
    masks = np.array([label == k for k in range(N)])
    targets = rng.random((3, 9, 8)) < 0.4
    targets[0] = masks[1]
    worth = rng.random(N).astype(np.float16)
    found = Described(rng.standard_normal((N, 4)), masks.sum((1, 2)), worth)
    atoms = Atoms([encode(mask.astype(np.uint8)) for mask in masks])
    return Scene.of(found, atoms, [(t, None, 1 + i) for i, t in enumerate(targets)]), masks, targets


def brute(masks: np.ndarray, target: np.ndarray) -> float:
    unions = [
        np.any(masks[list(chosen)], axis=0)
        for size in range(1, len(masks) + 1)
        for chosen in combinations(range(len(masks)), size)
    ]
    return max(float((u & target).sum() / (u | target).sum()) for u in unions)


@pytest.mark.parametrize("seed", range(3))
def test_the_best_union_of_what_is_kept(seed: int) -> None:
    scene, masks, targets = tiling(seed)
    for kept in ([0, 1, 2, 3, 4], [1, 3], [4]):
        wanted = sum((i + 1) * brute(masks[kept], t) for i, t in enumerate(targets))
        assert scene.best(scene.member[kept]) == pytest.approx(wanted)
    ious = [[(m & t).sum() / (m | t).sum() for t in targets] for m in masks]
    assert labels(scene).tolist() == pytest.approx(np.max(ious, axis=1).tolist())


def test_pixels_that_do_not_count() -> None:
    masks = np.zeros((2, 2, 4), np.bool_)
    masks[0, 0], masks[1, 1] = True, True
    target, ignore = np.zeros((2, 4), np.bool_), np.zeros((2, 4), np.bool_)
    target[0, :2], ignore[0, 2:] = True, True
    atoms = Atoms([encode(mask.astype(np.uint8)) for mask in masks])
    found = Described(np.zeros((2, 1)), np.array([4, 4]), np.zeros(2, np.float16))
    assert Scene.of(found, atoms, [(target, ignore, 1)]).best(atoms.member) == 1
    assert Scene.of(found, atoms, [(target, None, 1)]).best(atoms.member) == 0.5
    empty = np.zeros((2, 4), np.bool_)
    assert Scene.of(found, atoms, [(empty, None, 1)]).best(atoms.member) == 1


def test_curves_of_rules() -> None:
    """No rule is above all superpixels; a threshold keeps as many on average as the others exactly."""
    scenes = [tiling(seed)[0] for seed in range(6)]
    rows = curves(scenes, [1, 2, 4])
    whole = sum(s.best(s.member) for s in scenes) / sum(int(s.said.sum()) for s in scenes)
    assert rows["any that keeps the target"] == pytest.approx([whole] * 3)
    for name, values in rows.items():
        assert max(values) <= whole + 1e-9, name
        if name not in ("random", "worth, the rest as one token", "merge tree (Ward)"):
            assert list(values) == sorted(values), name
    kept = Selector(above=0.9).kept(np.array([1, 0]), np.array([0.1, 0.2]))
    assert kept.tolist() == [False, True], "at least one, the first by the order"


def test_a_prior_learns_what_shape_and_features_tell() -> None:
    rng = np.random.default_rng(1)
    means = [rng.standard_normal((6, 3)).astype(np.float16) for _ in range(60)]
    shapes = [np.concatenate([rng.random((6, 8)), np.ones((6, 1))], axis=1) for _ in means]
    logit = [2 * m[:, 1].astype(float) - 3 * s[:, 0] for m, s in zip(means, shapes, strict=True)]
    wanted = [(1 / (1 + np.exp(-one))).astype(np.float32) for one in logit]
    prior = fit_prior(means, shapes, wanted)
    assert prior.channels == 3 and len(TRAITS) == 9
    found = np.concatenate(
        [np.hstack([m, s]) @ prior.weights[:-1] for m, s in zip(means, shapes, strict=True)]
    )
    assert np.corrcoef(found, np.concatenate(logit))[0, 1] > 0.999
    with pytest.raises(DataError, match="nothing to learn a prior from"):
        fit_prior(means, shapes, [np.zeros(6, np.float32)] * 60)
