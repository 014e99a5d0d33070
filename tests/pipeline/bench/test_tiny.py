"""The shipped tiny weights: complete, small, what their cards say, and good on unseen scenes.

The floors here are loose; `svp bench tiny` measures against the acceptance bars on 200 scenes.
"""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from svp.pipeline.bench.tiny import (
    HELD_OUT,
    SPLIT,
    TinyReport,
    measure_attributes,
    measure_masks,
    measure_places,
    read_probe,
)
from svp.pipeline.datasets.scenes import MadeScene, make_scene
from svp.pipeline.datasets.scenes.attributes import ATTRIBUTES
from svp.pipeline.encoders import build_encoder
from svp.pipeline.encoders import tiny as features_tiny
from svp.pipeline.encoders.dinov2 import Dinov2
from svp.pipeline.recipe import FeatureConfig, GridConfig, SuperpixelConfig
from svp.pipeline.records import LocalPaths
from svp.pipeline.sam import build_backend, tiny

WEIGHTS = {tiny.WEIGHTS: 2_500_000, features_tiny.WEIGHTS: 2_000_000, features_tiny.PROBE: 20_000}
HERE = LocalPaths(images=Path())


@pytest.fixture(scope="module")
def made() -> list[MadeScene]:
    return [make_scene(HELD_OUT, index, SPLIT) for index in range(12)]


@pytest.mark.parametrize("path", WEIGHTS, ids=lambda p: p.name)
def test_files_are_small_finite_float16(path: Path) -> None:
    assert path.stat().st_size < WEIGHTS[path]
    for name, tensor in load_file(path).items():
        assert tensor.dtype == torch.float16 and tensor.isfinite().all(), name


@pytest.mark.parametrize(
    ("path", "build"),
    [(tiny.WEIGHTS, tiny.build_tiny_sam), (features_tiny.WEIGHTS, features_tiny.build_tiny_dinov2)],
    ids=["sam", "dinov2"],
)
def test_cards_tell_the_truth_and_weights_load_strictly(path: Path, build: object) -> None:
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert callable(build)
    model = build()
    state = load_file(path)
    if path == features_tiny.WEIGHTS:
        state = Dinov2(model).from_original(state)  # transformers has renamed parts
    model.load_state_dict(state)
    assert card["parameters"] == sum(p.numel() for p in model.parameters())
    assert 300_000 < card["parameters"] < 1_200_000


@pytest.mark.timeout(900)
def test_sam_finds_wholes_parts_and_regions(made: list[MadeScene]) -> None:
    torch.set_num_threads(1)
    backend = build_backend(SuperpixelConfig(), HERE)
    found = measure_masks(backend, made, GridConfig(points_per_side=16))
    assert found["body"] > 0.7, found
    assert found["part"] > 0.5, found
    assert found["coverage"] > 0.85, found
    assert 8 < found["superpixels"] < 24, found


@pytest.mark.timeout(900)
def test_encoder_tells_the_attributes(made: list[MadeScene]) -> None:
    torch.set_num_threads(1)
    accuracy, chance = measure_attributes(build_encoder(FeatureConfig(), HERE, "cpu"), made)
    assert set(accuracy) == set(ATTRIBUTES)
    for name in ("kind", "colour", "texture", "size", "level"):
        assert accuracy[name] > 0.8 > chance[name], (name, accuracy, chance)


class Told:
    """Features of one image: noise, and behind it `told` (P,2)."""

    def __init__(self, told: NDArray[np.float64]) -> None:
        self.told, self.rng = told, np.random.default_rng(0)

    def encode(self, images: list[NDArray[np.uint8]]) -> Any:
        noise = self.rng.standard_normal((1, len(self.told), 3))
        return SimpleNamespace(patches=np.concatenate([noise, self.told[None]], 2))

    def __getattr__(self, name: str) -> Any:
        return getattr(build_encoder(FeatureConfig(), HERE, "cpu"), name)


@pytest.mark.timeout(900)
def test_a_place_is_found_where_features_tell_it_and_only_there(made: list[MadeScene]) -> None:
    places = np.indices((16, 16)).reshape(2, -1).T.astype(np.float64)
    assert measure_places(Told(3 * places - 7), made) < 1e-6  # type: ignore[arg-type]
    assert 20 < measure_places(Told(0 * places), made) < 50  # type: ignore[arg-type]


def test_the_encoder_has_forgotten_most_of_the_place_but_not_all(made: list[MadeScene]) -> None:
    encoder = build_encoder(FeatureConfig(), HERE, "cpu")
    more = [*made, *(make_scene(HELD_OUT, index, SPLIT) for index in range(12, 60))]
    assert 8 < measure_places(encoder, more) < 20


def test_probe_is_linear_and_fits_the_attributes() -> None:
    probe = read_probe()
    for name, values in ATTRIBUTES.items():
        assert probe[name][0].shape == (len(values), features_tiny.WIDTH)
        assert probe[name][1].shape == (len(values),)


def test_report_compares_with_the_bars_and_corrects_for_chance() -> None:
    good = TinyReport(1, 32, 0.9, 0.8, 0.7, 0.5, 0.96, 16.0, {"kind": 0.95}, {"kind": 0.5})
    assert good.ok and good.corrected["kind"] == pytest.approx(0.9)
    assert any("0.950" in line and "0.900" in line for line in good.lines())
    low = TinyReport(1, 32, 0.9, 0.8, 0.7, 0.5, 0.94, 16.0, {"kind": 0.95}, {"kind": 0.5})
    weak = TinyReport(1, 32, 0.9, 0.8, 0.7, 0.5, 0.96, 16.0, {"kind": 0.89}, {"kind": 0.5})
    assert not low.ok and not weak.ok
    assert (good.exit_code, low.exit_code) == (0, 1)
    assert good.to_json()["coverage"] == 0.96 and good.to_json()["ok"]
