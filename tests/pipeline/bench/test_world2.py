"""The probes of world 2: they answer what can be answered, and the world asks what it should."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from svp.pipeline.bench import world2
from svp.pipeline.bench.binding_probe import Sample, accuracies, samples
from svp.pipeline.bench.tiny import HELD_OUT, SPLIT
from svp.pipeline.bench.world2 import World2Report, measure, measure_things
from svp.pipeline.datasets.world2 import make_scene
from svp.pipeline.datasets.world2.patch_labels import coat_shares
from svp.pipeline.encoders import build_encoder
from svp.pipeline.recipe import FeatureConfig
from svp.pipeline.records import LocalPaths


def test_a_probe_reads_what_is_linear_and_nothing_that_is_not_there() -> None:
    rng = np.random.default_rng(0)
    answers = rng.integers(2, size=400)
    noise = rng.standard_normal((400, 5))
    told = np.where(answers[:, None] == 1, 1.0, -1.0) + noise
    names = ("mean", "box", "cells", "patches", "mask")
    made = [
        Sample("stack", int(a), dict.fromkeys(names, n) | {"patches": t})
        for a, n, t in zip(answers, noise, told, strict=True)
    ]
    found = accuracies(made[:300], made[300:])["parts"]
    assert found["patches"] > 0.9
    assert abs(found["mean"] - 0.5) < 0.15


def test_twins_are_told_apart_by_patches_and_not_by_means() -> None:
    """Twins in a scene of one patch grid: equal means where nothing hides them, exchanged patches."""
    pairs = 0
    for index in range(16):
        made = make_scene(9000, index, difficulty=0)
        shares = coat_shares(made, 1).reshape(*made.labels.whole.shape, -1)
        groups: dict[int, list[Sample]] = {}
        by_order = [
            t
            for t in made.scene.things
            if t.kind == "outline" or (t.kind == "binding" and len({c.paint for c in t.coats}) > 1)
        ]
        for thing, sample in zip(by_order, samples([(made, shares)]), strict=True):
            if thing.kind == "binding":
                groups.setdefault(thing.group, []).append(sample)
        for first, second, *_ in (g for g in groups.values() if len(g) > 1):
            whole = abs(first.rows["mask"] - 1).max() == abs(second.rows["mask"] - 1).max() == 0
            if whole:
                assert np.allclose(first.rows["mean"], second.rows["mean"])
                assert not np.allclose(first.rows["patches"], second.rows["patches"])
                assert first.answer != second.answer
                pairs += 1
    assert pairs > 0


def report(**changed: object) -> World2Report:
    good = {"mean": 0.5, "box": 0.5, "cells": 0.5, "patches": 0.95, "mask": 0.95}
    figures = {
        "scenes": (60, 20), "pictures": 2, "truth": {"parts": good, "outline": good}, "encoder": {},
        "things": 0.85, "grounds": 0.9, "superpixels": 16.0, "attributes": {"paint": 0.95},
    }  # fmt: skip
    return World2Report(**{**figures, **changed})  # type: ignore[arg-type]


def test_every_bar_is_told_by_name() -> None:
    assert report().exit_code == 0 and report().lines()[-1] == "every bar is met"
    leaky = {"mean": 0.7, "box": 0.5, "cells": 0.5, "patches": 0.8, "mask": 0.5}
    missed = report(
        truth={"parts": leaky, "outline": leaky}, things=0.7, attributes={"finish": 0.8}
    )
    assert missed.exit_code == 1
    assert missed.missed == (
        "parts from mean (scene) 0.700 > 0.6",
        "parts from patches (scene) 0.800 < 0.9",
        "outline from mask (scene) 0.500 < 0.9",
        "things 0.700 < 0.8",
        "finish 0.800 < 0.9",
    )


FOLDER = Path(world2.__file__).parents[2] / "workflows/tiny/world2"


@pytest.mark.parametrize("name", ["mobile_sam", "clip"])
def test_cards_tell_the_truth(name: str) -> None:
    card = json.loads((FOLDER / f"{name}.json").read_text())
    path = FOLDER / card["file"]
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert card["bytes"] == path.stat().st_size < 1_200_000
    state = load_file(path)
    held = sum(value.numel() for value in state.values())
    assert card["parameters"] <= held < 1.1 * card["parameters"]  # running means are no parameters
    assert all(value.isfinite().all() for value in state.values())
    assert sum(file.stat().st_size for file in FOLDER.rglob("*")) < 16_000_000


def test_the_mobile_sam_cuts_things_and_the_clip_is_read() -> None:
    """Loose floors; `svp bench world2` measures on more scenes."""
    torch.set_num_threads(1)
    made = [make_scene(HELD_OUT, k, SPLIT, difficulty=0) for k in range(3)]
    assert measure_things(made, 12, "tiny-mobile-world2")["things"] > 0.4
    clip = build_encoder(
        FeatureConfig(encoder="tiny-clip-world2", size=128), LocalPaths(Path()), "cpu"
    )
    found = clip.encode([scene.image for scene in made])
    assert found.patches.shape == (3, 256, 96)
    assert not np.allclose(found.patches[0], found.patches[1])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_world_asks_for_places_and_outlines(tmp_path: Path) -> None:
    found = measure(200, 10)
    assert max(found.truth["parts"][name] for name in ("mean", "box", "cells")) < 0.65
    assert max(found.truth["outline"][name] for name in ("box", "cells")) < 0.65
    assert found.truth["parts"]["patches"] > 0.7
    assert found.truth["outline"]["mask"] > 0.9
    assert found.things > 0.75
