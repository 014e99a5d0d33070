"""Which GPU a run is on, and what a stage sets."""

import pytest
import torch

from support import micro_run
from support.micro_ris import micro_model
from svp.pipeline.errors import ConfigError
from svp.train.trainer import prepare
from svp.train.trainer.prepare import enter_stage, make_accelerator, make_ready, pin_gpu


def test_a_numbered_gpu_is_the_one_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for device in ("cpu", "cuda", "cuda:1"):
        pin_gpu(device)
    assert taken == [1]
    with pytest.raises(ConfigError, match="--device cuda:2: 2 CUDA devices found"):
        pin_gpu("cuda:2")


def test_several_processes_do_not_share_a_numbered_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    pin_gpu("cuda")
    with pytest.raises(ConfigError, match="--device cuda:1 with 4 processes: each takes a GPU"):
        pin_gpu("cuda:1")


@pytest.mark.parametrize(("name", "wanted"), [("svp", [False, True]), ("mlp", [True, True])])
def test_a_stage_sets_the_position_embeddings_of_projectors_that_have_them(
    name: str, wanted: list[bool]
) -> None:
    recipe = micro_run.micro_recipe(
        stages=[{"name": "one", "steps": 1, "warmup": 0, "add_sspe": False},
                {"name": "two", "steps": 1, "warmup": 0}]
    )  # fmt: skip
    model = micro_model(name)
    found = []
    for index in range(2):
        make_ready(model, recipe, index)
        found.append(model.projector.add_sspe)
    assert found == wanted


def test_a_tied_head_is_not_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its two names would become two matrices."""
    model, recipe = micro_run.micro_model(), micro_run.micro_recipe()
    model.lm.config.tie_word_embeddings = True
    monkeypatch.setattr(prepare, "zero_level", lambda _: 3)
    with pytest.raises(ConfigError, match="one matrix, which FSDP and ZeRO 3 would part"):
        enter_stage(make_accelerator(recipe, "cpu"), model, recipe, 0)
