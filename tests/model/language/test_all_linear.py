"""LoRA on every linear of the layers: asked for, or where a family says nothing of its own names."""

from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from svp.model.language.adapter import Language
from svp.model.language.adapters import ALL, LINEARS, Lora, add_lora
from svp.model.language.families import FAMILIES
from svp.model.language.load import random_lm
from svp.pipeline.errors import ConfigError

SIZES = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
         "num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0}  # fmt: skip
STARCODER2 = {"q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj"}


def lm_of(family: str) -> Any:
    return random_lm(CONFIG_MAPPING[family](**SIZES))


def adapted(lm: Any) -> list[str]:
    return [name.split(".lora_A")[0] for name, _ in lm.named_parameters() if "lora_A" in name]


def test_a_family_that_says_nothing_gets_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "starcoder2", Language("starcoder2", "StarCoder 2"))
    lm = lm_of("starcoder2")
    add_lora(lm, Lora(rank=2))
    names = adapted(lm)
    assert {name.rsplit(".", 1)[-1] for name in names} == STARCODER2
    assert len(names) == 2 * len(STARCODER2) and not any("lm_head" in name for name in names)
    with pytest.raises(ConfigError, match="no linear of this starcoder2 is named down_proj"):
        add_lora(lm_of("starcoder2"), Lora(rank=2, targets=("q_proj", "down_proj")))


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_all_can_be_asked_for(family: str) -> None:
    every, usual = lm_of(family), lm_of(family)
    add_lora(every, Lora(rank=2, targets=(ALL,)))
    add_lora(usual, Lora(rank=2, targets=LINEARS))
    assert adapted(every) == adapted(usual) != []
