"""Losses of 100 steps of the micro run, both stages: what every later version has to reach.

    PYTHONPATH=tests python -m support.old_losses OUT.json

tests/fixtures/losses/micro.json was made by commit 955986b, before the layers of the language model, the
mask head and the losses were computed in fewer operators. To repeat it, in a copy of this repository:

    git worktree add OLD 955986b && cp tests/support/old_losses.py OLD/tests/support/
    mkdir OLD/.typing && ln -s .. OLD/.typing/svp
    cd OLD && PYTHONPATH=.typing:tests python -m support.old_losses micro.json

Without dropout, of which the version since then draws other masks. The tiny recipe on the quickstart's
cache agrees within 7.2e-6 over its 100 steps of either version's

    PYTHONPATH=.typing python -m svp train --from-cache CACHE --dataset SCENES --runs RUNS
      --set model.lora.dropout=0 --set model.warm_projector=false --set global_batch=4
      --set run.micro_batch=4 --set data.sentences_per_image=3 --set stages.0.steps=50
      --set stages.1.steps=50 --set stages.0.warmup=10 --set stages.1.warmup=10
"""

import json
import sys
import tempfile
from pathlib import Path

from support import micro_run
from svp.train.recipe import TrainRecipe

NAMES = ("loss", "ce", "bce", "dice", "norm")


def recipe() -> TrainRecipe:
    """50 steps of each stage."""
    lora = {"r": 2, "targets": ["q_proj", "v_proj"], "dropout": 0.0}
    return micro_run.micro_recipe(
        model=micro_run.RECIPE["model"] | {"lora": lora},
        stages=[
            {"name": "one", "steps": 50, "lr": 1e-3, "warmup": 5, "add_sspe": False},
            {"name": "two", "steps": 50, "lr": 1e-3, "warmup": 5, "lora": True},
        ],
        global_batch=4,
        run={"checkpoint": 100, "log": 100},
    )


def losses(root: Path) -> list[dict[str, float]]:
    """Of each step of a run in `root`."""
    micro_run.run(root, recipe())
    lines = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in NAMES} for line in lines]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        found = losses(Path(folder) / "run")
    Path(sys.argv[1]).write_text(json.dumps(found, indent=0) + "\n")
