"""Size and constants of a LLaMA model, read from an untrusted config.json.

The file is data: fields we know are checked and copied, code hooks are refused, and transformers
gets a configuration of our own making (a config.json has run code there before).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...pipeline.display import show
from ...pipeline.errors import WeightsError
from ...pipeline.weights.file_checks import read_json
from ...pipeline.weights.model_config import MAX_CONFIG, check_config

if TYPE_CHECKING:
    from transformers import LlamaConfig

_Size = Annotated[int, Field(gt=0, le=1 << 20)]
_Base = Annotated[float, Field(gt=0, le=1e9)]


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """Shape of a `LlamaForCausalLM`; defaults are LLaMA-2 7B with GLaMM's vocabulary.

    Sizes are counts; `eps` is the RMSNorm epsilon, `theta` the base of the rotary frequencies.
    """

    vocab: int = 32_007
    hidden: int = 4096
    intermediate: int = 11_008
    layers: int = 32
    heads: int = 32
    kv_heads: int = 32
    eps: float = 1e-5
    positions: int = 4096
    theta: float = 10_000.0

    def config(self) -> "LlamaConfig":
        """The configuration transformers builds the model from: untied, SDPA attention."""
        from transformers import LlamaConfig

        config = LlamaConfig(
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            rms_norm_eps=self.eps,
            max_position_embeddings=self.positions,
            rope_parameters={"rope_type": "default", "rope_theta": self.theta},
            pad_token_id=0,
            tie_word_embeddings=False,
        )
        config._attn_implementation = "sdpa"
        return config


class _File(BaseModel):
    """The fields of config.json that decide the numbers; all others are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)

    vocab_size: _Size
    hidden_size: _Size
    intermediate_size: _Size
    num_hidden_layers: _Size
    num_attention_heads: _Size
    num_key_value_heads: _Size | None = None
    rms_norm_eps: Annotated[float, Field(gt=0, lt=1)]
    max_position_embeddings: _Size = 2048  # transformers' default at the time of LLaMA-1
    rope_theta: _Base = 10_000.0
    rope_scaling: None = None
    rope_parameters: dict[str, Any] | None = None
    tie_word_embeddings: bool = False


def read_shape(folder: Path) -> LlamaShape:
    """The shape `folder/config.json` of a published model states.

    Raises MissingError (no such file) or WeightsError (asks for code; a field is missing, out of
    range, or something this model does not have, such as tied embeddings or scaled positions).
    """
    check_config(folder, {"tie_word_embeddings": False, "hidden_act": "silu"})
    path = folder / "config.json"
    try:
        found = _File.model_validate(read_json(path, MAX_CONFIG))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise WeightsError(f"{show(str(path), 200)}: {show(field)}: {show(first['msg'])}") from None
    return LlamaShape(
        vocab=found.vocab_size,
        hidden=found.hidden_size,
        intermediate=found.intermediate_size,
        layers=found.num_hidden_layers,
        heads=found.num_attention_heads,
        kv_heads=found.num_key_value_heads or found.num_attention_heads,
        eps=found.rms_norm_eps,
        positions=found.max_position_embeddings,
        theta=_theta(path, found),
    )


def _theta(path: Path, found: _File) -> float:
    rope = found.rope_parameters or {"rope_theta": found.rope_theta}
    theta = rope.get("rope_theta", found.rope_theta)
    scaled = rope.get("rope_type", "default") != "default" or rope.keys() - {
        "rope_theta",
        "rope_type",
    }
    if scaled or not isinstance(theta, int | float) or not 0 < theta <= 1e9:
        raise WeightsError(f"{show(str(path), 200)}: rope_parameters {show(rope)}: need plain RoPE")
    return float(theta)
