"""Causal language model: built by transformers' own class, filled from a local folder.

Weights come in through the one guarded loader, never through a pickle: a folder in the usual
layout (`config.json` + safetensors or .bin shards) or random values from a seed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...pipeline.display import show
from ...pipeline.errors import MissingError, WeightsError
from ...pipeline.weights.file_checks import read_json
from ...pipeline.weights.key_report import TensorSpec, check_keys, expected_of
from ...pipeline.weights.load import load_state_dict, require_finite
from ...pipeline.weights.model_config import MAX_CONFIG, check_config
from .adapter import Language
from .families import family

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

IGNORED = ("rotary_emb.inv_freq",)  # a constant of older transformers
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
# Fields of older files that a configuration of transformers takes besides its own.
_OLDER = (
    "rope_theta", "rope_scaling", "rope_local_base_freq", "partial_rotary_factor", "sliding_window_pattern",
)  # fmt: skip


def build_lm(config: "PreTrainedConfig") -> Any:
    """The causal language model of `config`, with transformers' own initial values, float32.

    Raises WeightsError for a family that is not listed.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    family(config.model_type)
    config._attn_implementation = "sdpa"
    built: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return built(config)


def random_lm(config: "PreTrainedConfig", seed: int = 0) -> Any:
    """A model of `config` with values of a seed, float32, in training mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_lm(config)


def load_lm(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The model of a local folder, strictly: every tensor has its place, none is missing.

    Where the file has `dtype` already, parameters are the mapped file itself (`weights.fill_module.fill`).

    Raises MissingError (no such folder or config), WeightsError (another family, wrong tensors).
    """
    config = read_config(folder)
    language = _read(folder)[0]
    with torch.device("meta"):
        lm = build_lm(config).to(dtype)
    state = load_state_dict(folder)
    own = _with_head(lm, _renamed(language, state))
    advice = "give a folder of a language model, as `save_pretrained` writes it"
    wanted = {n: TensorSpec(s.shape, "float32") for n, s in expected_of(lm).items()}
    check_keys(own, wanted, any_float=True).require(str(folder), advice)
    names = {name for name in state if _renamed(language, {name: state[name]})}
    require_finite(folder, lambda name: name in names)
    fill_lm(lm, own, str(folder), mapped=True, checked=True)
    lm.eval()
    lm.requires_grad_(False)
    return lm


def fill_lm(
    lm: Any, state: Mapping[str, Tensor], what: str, *, mapped: bool = False, checked: bool = False
) -> None:
    """`weights.fill_module.fill` of a language model made on the meta device.

    The head of a tied model is its embedding again, whether `state` has it or not. What is computed
    and not stored gets its values.
    """
    from ...pipeline.weights.fill_module import fill

    fill(lm, _with_head(lm, state), what, mapped=mapped, checked=checked)
    lm.tie_weights()
    restore_buffers(lm)


def read_config(folder: Path) -> "PreTrainedConfig":
    """The language model's configuration in a model folder. Raises MissingError, WeightsError."""
    language, raw = _read(folder)
    return config_of(language, raw, str(folder / "config.json"))


def config_of(language: Language, raw: Mapping[str, Any], where: str) -> "PreTrainedConfig":
    """A configuration of a family's class from fields of an untrusted file; others are ignored.

    Raises WeightsError for values that transformers refuses.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    kind = CONFIG_MAPPING[language.model_type]
    known = {*kind.__annotations__, *_OLDER}
    # Published configurations write "rope_scaling": null out, at which transformers warns.
    fields = {n: v for n, v in raw.items() if n in known and (n, v) != ("rope_scaling", None)}
    try:
        config: PreTrainedConfig = kind(**fields)
    except (StrictDataclassError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise WeightsError(f"{show(where, 200)}: {show(str(error), 200)}") from None
    return config


def fields_of(config: "PreTrainedConfig") -> dict[str, Any]:
    """Fields from which `config_of` makes the same configuration: a family's own, and `model_type`."""
    own = {n: v for n, v in config.to_dict().items() if n in type(config).__annotations__}
    return own | {"model_type": config.model_type}


def _read(folder: Path) -> tuple[Language, Mapping[str, Any]]:
    """The family of a model folder, and the fields of its configuration."""
    path = folder / "config.json"
    if not path.is_file():
        raise MissingError(f"{show(str(folder), 200)}: no config.json: not a model folder")
    raw = read_json(path, MAX_CONFIG)
    try:
        language = family(raw.get("model_type", "llama"))
    except WeightsError as error:
        raise WeightsError(f"{show(str(path), 200)}: {error}") from None
    check_config(folder, {}, unread=language.unread)  # a config.json has run code there before
    return language, language.text(raw)


def _renamed(language: Language, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The language model's tensors under the names that it has in transformers."""
    own = {}
    for name, tensor in state.items():
        if name.endswith(IGNORED) or name.startswith(language.other):
            continue
        found = (
            new + name.removeprefix(old) for old, new in language.prefixes if name.startswith(old)
        )
        own[next(found, name)] = tensor
    return own


def _with_head(lm: Any, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    if not lm.config.tie_word_embeddings or EMBEDDING not in state:
        return state
    return {**state, HEAD: state[EMBEDDING]}


def restore_buffers(lm: Any) -> None:
    """Rotary frequencies and scales are computed, not stored: on the meta device they have no values."""
    rotary = lm.model.rotary_emb
    lm.model.rotary_emb = type(rotary)(lm.config)
    embedding = lm.model.embed_tokens
    if hasattr(embedding, "scalar_embed_scale"):  # Gemma's
        embedding.embed_scale = torch.tensor(embedding.scalar_embed_scale)
