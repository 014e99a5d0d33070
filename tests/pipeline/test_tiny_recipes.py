"""The recipes that made the shipped weights: same seed, same bits, also across a kill."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

RECIPES = Path(__file__).parents[2] / "workflows" / "tiny"


def train(recipe: str, work: Path, stop: int) -> dict[str, torch.Tensor]:
    command = [sys.executable, str(RECIPES / f"train_{recipe}.py"), "--work", str(work)]
    options = ["--scenes", "3", "--images", "2", "--stop", str(stop), "--decay", "1"]
    options += ["--turns", "2"] if recipe == "ris" else ["--stem-from", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, *options], check=True, env=environment, capture_output=True)
    state = torch.load(work / f"{recipe}.pt", weights_only=True)
    weights: dict[str, torch.Tensor] = state["sam" if recipe == "sam" else "parts"]
    return weights


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["sam", "encoder", "ris"])
def test_three_steps_are_the_same_twice_and_after_a_stop(recipe: str, tmp_path: Path) -> None:
    first = train(recipe, tmp_path / "a", 3)
    second = train(recipe, tmp_path / "b", 3)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    train(recipe, tmp_path / "c", 2)  # with a decay of one step, stopping early changes no rate
    resumed = train(recipe, tmp_path / "c", 3)
    assert all(torch.equal(first[name], resumed[name]) for name in first)
    start = train(recipe, tmp_path / "d", 1)
    assert any(not torch.equal(first[name], start[name]) for name in first)
