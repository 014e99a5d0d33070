"""The recipes that made the shipped weights: same seed, same bits, also across a kill."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from svp.pipeline.datasets.scenes.rng import Rng
from svp.pipeline.encoders.tiny import REGISTERS, VIEW, build_tiny_dinov2
from svp.train.data.tokenizer import load_vocabulary

RECIPES = Path(__file__).parents[2] / "workflows" / "pretrain_tiny"


def train(recipe: str, work: Path, stop: int, world: int = 1) -> dict[str, torch.Tensor]:
    command = [sys.executable, str(RECIPES / f"train_{recipe}.py"), "--work", str(work)]
    options = ["--scenes", "3", "--images", "2", "--stop", str(stop), "--decay", "1"]
    own = {"lm": ["--turns", "2"], "sam": ["--stem-from", "1"],
           "encoder": ["--stem-from", "1", "--shift-from", "2"]}  # fmt: skip
    options += own.get(recipe, [])
    options += ["--world", str(world)] if recipe in ("sam", "encoder") else []
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, *options], check=True, env=environment, capture_output=True)
    state = torch.load(work / ("ris.pt" if recipe == "lm" else f"{recipe}.pt"), weights_only=True)
    part = {"sam": "sam", "mobile": "encoder"}.get(recipe, "parts")
    weights: dict[str, torch.Tensor] = state[part]
    return weights


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "world"),
    [("sam", 1), ("encoder", 1), ("lm", 1), ("sam", 2), ("encoder", 2), ("mobile", 2), ("clip", 2)],
)
@pytest.mark.timeout(900)
def test_three_steps_are_the_same_twice_and_after_a_stop(
    recipe: str, world: int, tmp_path: Path
) -> None:
    first = train(recipe, tmp_path / "a", 3, world)
    second = train(recipe, tmp_path / "b", 3, world)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    train(
        recipe, tmp_path / "c", 2, world
    )  # with a decay of one step, stopping early changes no rate
    resumed = train(recipe, tmp_path / "c", 3, world)
    assert all(torch.equal(first[name], resumed[name]) for name in first)
    start = train(recipe, tmp_path / "d", 1, world)
    assert any(not torch.equal(first[name], start[name]) for name in first)


def test_a_position_table_shifted_by_nothing_is_the_encoders_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(RECIPES)
    from encoder_task import change, shifted  # type: ignore[import-not-found]

    torch.manual_seed(0)
    encoder = build_tiny_dinov2()
    images = torch.randn(2, 3, VIEW, VIEW)
    with torch.no_grad():
        own = encoder(pixel_values=images).last_hidden_state[:, 1 + REGISTERS :]
        assert torch.equal(shifted(encoder, images, np.zeros((2, 2), int)), own)
        moved = shifted(encoder, images, np.array([[0, 0], [3, 0]]))
    assert torch.allclose(moved[0], own[0], atol=1e-5)
    assert change(moved[1:], own[1:]) > 1e-4


def test_answers_are_told_before_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(RECIPES)
    from text_data import IGNORE, batch, document, make_story  # type: ignore[import-not-found]

    words = load_vocabulary(RECIPES.parent / "tiny/world2/lm")
    story = make_story(4, 3)
    assert any(answer.startswith("They are") for _, answer in story.asked)
    told = " ".join(story.captions)
    for _, answer in story.asked:
        body = answer.removesuffix(".").partition(" ")[2].partition(" ")[2]
        assert answer == "There is none." or any(name in told for name in body.split(" and a"))
    ids, places = next(
        (ids, places)
        for k in range(9)
        for ids, places in [document(story, words, Rng(k))]
        if places
    )
    assert words.decode([ids[k] for k in places]).startswith(("It is", "They are", "There is"))
    assert words.tokenizer.get_vocab()["<unk>"] not in ids
    rows, labels, answers = batch([story, make_story(4, 4)], words, (1, 2))
    assert rows.shape == labels.shape == answers.shape
    assert (labels[labels != IGNORE] == rows[labels != IGNORE]).all()
    assert not (answers & (labels == IGNORE)).any()
