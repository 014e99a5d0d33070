"""Upper bounds: the click lies inside, SAM draws what it is told, objects share their bounds."""

from pathlib import Path

import numpy as np
import pytest

from support import eval_world
from svp.pipeline.datasets.scenes.make import make_scene
from svp.pipeline.masks.rle import decode
from svp.pipeline.recipe import SuperpixelConfig
from svp.pipeline.records import LocalPaths
from svp.pipeline.sam import build_backend
from svp.train.evaluation.protocols import examples
from svp.train.evaluation.upper_bounds import Atoms, Oracle, PointDecoder, deepest


def test_deepest_point_is_inside() -> None:
    ring = np.zeros((20, 30), np.bool_)
    ring[2:18, 5:25] = True
    ring[4:16, 8:22] = False
    y, x = deepest(ring)
    assert ring[y, x]
    square = np.zeros((9, 9), np.bool_)
    square[0:7, 2:9] = True  # touches the border of the image
    assert deepest(square) == (3, 5)


def test_bounds_come_from_the_rows_superpixels(tmp_path: Path) -> None:
    cache = eval_world.write_cache(tmp_path / "cache", range(3, 9))
    items = examples(eval_world.make_source("d", range(3, 9)), [cache])
    oracle = Oracle([cache])
    for item in items:
        atoms = Atoms(cache.superpixels(item.entry.row).masks())
        for said in item.expressions:
            found, bound = oracle(item, said), atoms.bound(decode(said.mask) > 0)
            assert (found.single, found.union, found.point) == (bound.single, bound.union, None)
            assert found.pieces == len(bound.chosen)
            assert oracle(item, said) is found


def test_the_shipped_sam_finds_what_is_clicked() -> None:
    """Discs and squares of generated scenes, from float16 embeddings as a cache holds them."""
    backend = build_backend(SuperpixelConfig(), LocalPaths(Path()), "cpu")
    decoder, ious = PointDecoder(backend), []
    for index in range(3):
        made = make_scene(11, index, "val")
        embedding = backend.embed([made.image])[0].numpy().astype(np.float16)
        first = len(made.scene.regions) + 1
        for k in range(first, first + len(made.scene.things)):
            target = made.labels.whole == k
            if target.sum() > 150:
                ious.append(decoder.iou(embedding, target))
    assert len(ious) > 8 and np.mean(ious) > 0.6
    wrong = np.zeros_like(target)
    wrong[:3, :3] = True
    assert decoder.iou(embedding, wrong) < 0.3


@pytest.mark.parametrize("size", [(480, 640)])
def test_atoms_of_a_photograph_sized_partition(size: tuple[int, int]) -> None:
    from svp.pipeline.masks.runs import encode, from_labels
    from svp.pipeline.records import Rle

    rng = np.random.default_rng(0)
    label = np.kron(rng.integers(0, 40, (24, 32)), np.ones((20, 20), np.int64))
    atoms = Atoms([Rle(*size, counts) for counts in encode(from_labels(label))])
    bound = atoms.bound(np.isin(label, (3, 7)))
    assert bound.union == 1.0 and bound.chosen == (3, 7) and atoms.member.shape == (40, 41)
