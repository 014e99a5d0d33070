"""What FSDP gathers at a time: the layers of the language model, whatever its family."""

from pathlib import Path

import pytest
from accelerate.utils.dataclasses import get_module_class_from_name

from support import sharded_run
from support.micro_run import micro_model
from support.split_runs import assert_same_losses, ranks, recipe
from svp.pipeline.errors import ConfigError
from svp.train.trainer.strategies.fsdp import units

NAMES = {
    "llama": "LlamaDecoderLayer",
    "qwen2": "Qwen2DecoderLayer",
    "qwen3": "Qwen3DecoderLayer",
    "phi3": "Phi3DecoderLayer",
    "granite": "GraniteDecoderLayer",
}


@pytest.mark.parametrize("family", NAMES)
def test_the_layers_of_a_family_are_found(family: str) -> None:
    model = micro_model(family)
    (name,) = units(model.lm, None)
    assert name == NAMES[family] and units(model.lm, [name]) == [name]
    # accelerate looks the class up in the whole model, and wraps its instances.
    found = get_module_class_from_name(model, name)
    wrapped = [module for module in model.modules() if isinstance(module, found)]
    assert wrapped == list(model.lm.model.layers)


def test_a_name_of_another_family_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match="qwen3 has no .*LlamaDecoderLayer.*Qwen3.*leave the set"):
        units(micro_model("qwen3").lm, ["LlamaDecoderLayer"])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_train_what_one_trains(tmp_path: Path) -> None:
    sharded_run.run(tmp_path / "one", recipe(8), family="qwen3")
    assert ranks(tmp_path / "two", recipe(4), sharded_run.FSDP, family="qwen3") == [0, 0]
    assert_same_losses(tmp_path / "one", tmp_path / "two")
