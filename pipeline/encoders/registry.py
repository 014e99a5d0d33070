"""Build and load the encoder that a recipe names.

Strict: every tensor must be there, fit and be finite; the file must have the digest the recipe
names. Models of published size are built without memory and take the file's tensors.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError, MissingError
from ..fetch.encoder_specs import ENCODERS
from ..recipe import FeatureConfig, encoder_row
from ..weights.load import load_into, load_state_dict, require_digest
from ..weights.locate import ENCODER_FILES, find_weights, given_weights, hub_folder, search_weights
from ..weights.model_config import check_config
from ..weights.tensor_names import plain_names
from .backbone import Backbone, Family

if TYPE_CHECKING:
    from torch import nn

FLAG = "--encoder-weights"
PACKAGE = Path(__file__).parents[2]


def family(config: FeatureConfig) -> Family:
    """Family of a recipe's encoder: the module that its row in `encoder_specs.ENCODERS` names."""
    spec = encoder_row(config.encoder)
    assert spec is not None, "the recipe has checked the name"
    found: Family = import_module(spec.module, __package__).family(spec, config.size)
    return found


def load_backbone(config: FeatureConfig, path: Path | None, allow_download: bool) -> Backbone:
    """The backbone of `config` with its weights, on the CPU, in evaluation mode."""
    import torch

    kind = family(config)
    if config.weights.kind == "random":
        return kind.adapt(_random(kind, config.weights.seed))
    source = _source(config, path, allow_download)
    if source.is_dir():
        check_config(source, kind.expected, kind.part, unread=kind.unread)
    with torch.device("meta"):
        model = kind.build()
    backbone = kind.adapt(model)
    found = plain_names(load_state_dict(source), backbone.anchors, str(source))
    state = backbone.from_original(found)
    advice = f"This is not {config.encoder}: check features.encoder, or give another {FLAG}"
    load_into(model, state, str(source), advice, any_float=True)
    if kind.finish:
        kind.finish(model)
    return backbone


def _source(config: FeatureConfig, path: Path | None, allow_download: bool) -> Path:
    """The weights the recipe names, checked against its digest."""
    spec = ENCODERS[config.encoder]
    if config.weights.kind == "shipped" and spec.shipped:
        return PACKAGE / spec.shipped
    if config.weights.kind != "sha256":
        known = "shipped, " if spec.shipped else ""
        raise ConfigError(
            f"features.weights={config.weights}: allowed for {config.encoder} are {known}"
            "random:<seed> and sha256:<hex>"
        )
    source = given_weights(path, FLAG) if path else _find(config.encoder, allow_download)
    require_digest(source, config.weights.value, "features.weights")
    return source


def _find(encoder: str, allow_download: bool) -> Path:
    """A file or folder in the usual places or the hub's cache, or downloaded if allowed."""
    found = search_weights(encoder)
    spec = ENCODERS[encoder]
    if found is None and allow_download and spec.hub:
        try:
            return hub_folder(spec.hub, ENCODER_FILES, allow_download=True)
        except MissingError as error:
            raise MissingError(f"{error}. {spec.access}" if spec.access else str(error)) from None
    return found or find_weights(encoder, FLAG)  # says where it looked, and what to do


def _random(kind: Family, seed: int) -> "nn.Module":
    """Untrained weights that are a pure function of `seed`; torch's own state is left alone."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind.build()
