"""Options of a projector that may be set after training, and those that may not."""

from typing import Any

import pytest
import torch

from support.micro_ris import CHANNELS, GRID, WIDTH, micro_model
from svp.model.projectors import build_projector
from svp.pipeline.errors import ConfigError
from svp.train.evaluation.adjust import adjusted
from svp.train.evaluation.trained import Trained
from svp.train.recipe import ModelConfig, ProjectorConfig, StageConfig, TrainRecipe

TOKENS = "model.projector.options.tokens"


def trained(name: str = "tome", **options: Any) -> Trained:
    model = micro_model()
    model.projector = build_projector(name, in_dim=CHANNELS, llm_dim=WIDTH, grid=GRID, **options)
    recipe = TrainRecipe(
        name="x",
        model=ModelConfig(projector=ProjectorConfig(name=name, options=options)),
        stages=(StageConfig(name="only", steps=1, warmup=0),),
    )
    vocab: Any = None
    return Trained(model, vocab, recipe, {"checkpoint": "abc"})


def test_the_number_of_tokens_is_set_and_the_weights_stay() -> None:
    given = trained(tokens=9)
    before = {name: value.clone() for name, value in given.model.projector.state_dict().items()}
    found = adjusted(given, (f"{TOKENS}=4",), GRID)
    projector = found.model.projector
    assert projector.num_tokens(GRID) == 4 and not projector.training
    assert all(torch.equal(before[name], value) for name, value in projector.state_dict().items())
    assert found.digests == {"checkpoint": "abc", "projector options": "tokens=4"}
    assert adjusted(given, (), GRID) is given


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (f"{TOKENS}=40", "tokens=40: the 4x4 grid has 16 patches"),
        (f"{TOKENS}=0", "tokens=0"),
        (
            "model.projector.options.hidden=3",
            "lets model.projector.options.rounds, .*tokens be set",
        ),
        ("seed=3", "other fields are those of the training"),
        ("tokens=3", "other fields are those of the training"),
    ],
)
def test_what_a_training_decides_is_refused(change: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        adjusted(trained(tokens=9), (change,), GRID).model.projector.num_tokens(GRID)


def test_a_projector_without_such_options_says_so() -> None:
    with pytest.raises(ConfigError, match="after training projector mlp lets nothing be set"):
        adjusted(trained("mlp"), (f"{TOKENS}=3",), GRID)
