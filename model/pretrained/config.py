"""svp.json of an exported model: everything needed to build it before loading weights.

Read strictly: unknown fields, other versions and out-of-range sizes are refused, so nothing of the
file can reach a library as an option of the file's choosing.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from ...pipeline.display import show
from ...pipeline.errors import SvpError, WeightsError
from ...pipeline.superpixels.budget.selector import Budget
from ...pipeline.weights.file_checks import read_json
from ...pipeline.weights.model_config import MAX_CONFIG
from ..conversion.llama_shape import LlamaShape
from ..language.adapter import Language
from ..language.adapters import Lora
from ..language.families import family
from ..language.load import config_of, fields_of, read_config
from ..mask_head import MaskHead
from .preprocessing import Preprocessing

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

SCHEMA = 2
MODEL_TYPE = "svp-ris"
CONFIG = "svp.json"  # config.json is the language model's, for transformers
_NOT_IN_LOGITS = {
    "bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "use_cache", "pretraining_tp",
}  # fmt: skip
_Size = Annotated[int, Field(ge=1, le=1 << 20)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ProjectorSpec(_Strict):
    """Arguments of `build_projector`."""

    name: str
    in_dim: _Size
    llm_dim: _Size
    grid: tuple[_Size, _Size] | None = None
    options: dict[str, JsonValue] = {}


class LanguageSpec(_Strict):
    """Sizes of a language model and the dtype of its weights.

    config  of transformers, with its `model_type`, where `LlamaShape` does not say all of it
    """

    vocab: _Size
    hidden: _Size
    intermediate: _Size
    layers: _Size
    heads: _Size
    kv_heads: _Size
    eps: Annotated[float, Field(gt=0, lt=1)]
    positions: _Size
    theta: Annotated[float, Field(gt=0, le=1e9)]
    dtype: Literal["float32", "bfloat16", "float16"]
    config: dict[str, JsonValue] | None = Field(None, exclude_if=lambda config: config is None)

    def shape(self) -> LlamaShape:
        """The sizes alone."""
        return LlamaShape(**self.model_dump(exclude={"dtype", "config"}))

    def language(self) -> Language:
        """The family. Raises WeightsError for one that is not listed."""
        return family((self.config or {}).get("model_type", "llama"))

    def built(self) -> "PreTrainedConfig":
        """The configuration that transformers builds the model from. Raises WeightsError."""
        if self.config is None:
            return self.shape().config()
        return config_of(self.language(), self.config, CONFIG)


class MaskHeadSpec(_Strict):
    """Sizes of `segment_anything`'s prompt encoder and mask decoder.

    grid, image_size  of the SAM embedding, in patches and in pixels
    """

    width: _Size
    grid: tuple[_Size, _Size]
    image_size: tuple[_Size, _Size]
    mask_chans: _Size
    depth: _Size
    mlp: _Size
    heads: _Size
    outputs: _Size
    iou_depth: _Size
    iou_width: _Size

    @classmethod
    def of(cls, head: MaskHead) -> "MaskHeadSpec":
        """Read off a mask head."""
        prompt, decoder = head.prompt_encoder, head.decoder
        body, iou = decoder.transformer, decoder.iou_prediction_head
        return cls(
            width=head.width,
            grid=tuple(prompt.image_embedding_size),
            image_size=tuple(prompt.input_image_size),
            mask_chans=prompt.mask_downscaling[-1].in_channels,
            depth=body.depth,
            mlp=body.mlp_dim,
            heads=body.num_heads,
            outputs=decoder.num_multimask_outputs,
            iou_depth=iou.num_layers,
            iou_width=iou.layers[0].out_features,
        )

    def build(self) -> MaskHead:
        """An untrained mask head of these sizes."""
        from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

        prompt = PromptEncoder(
            embed_dim=self.width,
            image_embedding_size=self.grid,
            input_image_size=self.image_size,
            mask_in_chans=self.mask_chans,
        )
        body = TwoWayTransformer(
            depth=self.depth, embedding_dim=self.width, mlp_dim=self.mlp, num_heads=self.heads
        )
        decoder = MaskDecoder(
            transformer_dim=self.width,
            transformer=body,
            num_multimask_outputs=self.outputs,
            iou_head_depth=self.iou_depth,
            iou_head_hidden_dim=self.iou_width,
        )
        return MaskHead(prompt, decoder)


class LoraSpec(_Strict):
    """Adapters kept beside the model instead of merged into it."""

    rank: _Size
    alpha: _Size
    dropout: Annotated[float, Field(ge=0, lt=1)]
    targets: tuple[str, ...]

    def lora(self) -> Lora:
        """As `add_lora` takes it."""
        return Lora(**self.model_dump())


class ModelFile(_Strict):
    """svp.json.

    preprocessing  of photographs; None if the model was saved without (it then answers caches only)
    budget         of superpixels that it was trained at, None: all
    system_text    system message of its dialogues, "" for none; None: the chat template's own, or Vicuna's
    """

    schema_version: int
    model_type: str
    svp_version: str
    language: LanguageSpec
    projector: ProjectorSpec
    mask_head: MaskHeadSpec
    mask_state: Literal["predicting", "at_seg"]
    mask_prompt: Literal["projected", "pointed"] = "projected"
    add_sspe: bool
    adapter: LoraSpec | None = None
    preprocessing: Preprocessing | None = None
    budget: Budget | None = Field(None, exclude_if=lambda budget: budget is None)
    system_text: str | None = Field(None, exclude_if=lambda text: text is None)

    @model_serializer(mode="wrap")
    def _without_usual(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = handler(self)
        if self.mask_prompt == "projected":  # the only one that versions before had
            found.pop("mask_prompt", None)
        return found


def language_of(lm: Any, dtype: str) -> LanguageSpec:
    """The `LanguageSpec` of a language model."""
    config = lm.config
    rope = config.rope_parameters
    shape = LlamaShape(
        vocab=config.vocab_size,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        eps=config.rms_norm_eps,
        positions=config.max_position_embeddings,
        theta=float(rope.get("full_attention", rope)["rope_theta"]),
    )
    plain = config.model_type == "llama" and _decides(config) == _decides(shape.config())
    return LanguageSpec.model_validate(
        {**asdict(shape), "dtype": dtype, "config": None if plain else fields_of(config)}
    )


def _decides(config: "PreTrainedConfig") -> dict[str, JsonValue]:
    """The fields that a logit depends on."""
    return {n: v for n, v in fields_of(config).items() if n not in _NOT_IN_LOGITS}


def is_export(folder: Path) -> bool:
    """Whether the folder is one of `save_pretrained`, by its svp.json; reads no weights."""
    try:
        raw = read_json(folder / CONFIG, MAX_CONFIG)
    except SvpError:
        return False
    return raw.get("model_type") == MODEL_TYPE


def read_model_file(folder: Path) -> ModelFile:
    """`folder/svp.json`. Raises MissingError, or WeightsError naming the field that is wrong."""
    path = folder / CONFIG
    raw = read_json(path, MAX_CONFIG)
    if (raw.get("model_type"), raw.get("schema_version")) != (MODEL_TYPE, SCHEMA):
        raise WeightsError(
            f"{show(str(path), 200)}: model_type {show(raw.get('model_type'))}, schema "
            f"{show(raw.get('schema_version'))}: this svp reads {MODEL_TYPE}, schema {SCHEMA}. "
            "Export the model again with the svp that trained it, or install that one"
        )
    try:
        return ModelFile.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise WeightsError(f"{show(str(path), 200)}: {show(field)}: {show(first['msg'])}") from None


def language_config(folder: Path) -> "PreTrainedConfig":
    """Of the language model in a folder, one of our exports or a published model.

    Raises MissingError (no config.json), WeightsError (see `read_config`).
    """
    return read_model_file(folder).language.built() if is_export(folder) else read_config(folder)
