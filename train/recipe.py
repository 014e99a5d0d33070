"""Recipe of a training run: every setting that changes the result, no path.

Folders, devices and micro-batches are not here or not in the digest: a run can resume on
another machine, or with another number of processes. Defaults are those of `--size paper`:
which of them the paper states is told in docs/provenance.md.
"""

import hashlib
import json
import re
from typing import Annotated, ClassVar, Literal

from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    ValidationError,
    model_validator,
)

from ..model.language import LINEARS
from ..pipeline.display import counted
from ..pipeline.errors import ConfigError
from ..pipeline.io.settings import Frozen, explain
from ..pipeline.recipe import FeatureConfig, weights_of
from ..pipeline.superpixels.budget.selector import AUTO, BudgetField
from ..pipeline.weights.reference import NONE, SHIPPED, Kind, WeightsRef

Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Unit = Annotated[float, Field(ge=0, lt=1)]
Said = Annotated[str, StringConstraints(strip_whitespace=True, max_length=2000)]
Weight = Annotated[float, Field(ge=0, le=1000)]


def _source(*kinds: Kind) -> tuple[PlainValidator, PlainSerializer]:
    return PlainValidator(weights_of(*kinds)), PlainSerializer(str, return_type=str)


# Where weights come from; a path is never in a recipe, it enters as its sha256.
Init = Annotated[WeightsRef, *_source("none", "given", "shipped", "sha256", "svp")]
LmSource = Annotated[WeightsRef, *_source("none", "given", "shipped", "random", "sha256")]
DecoderSource = Annotated[WeightsRef, *_source("none", "given", "shipped", "random", "sha256")]
# lm: all layers of the language model; not among those that train by default.
Part = Literal["projector", "embedding", "lm_head", "to_prompt", "mask_decoder", "lm"]
ORDER = re.compile(r"global|window:[1-9][0-9]{0,8}")
ORDER_RULE = "it is global or window:N, N >= 1 shards"
PARTS: tuple[Part, ...] = ("projector", "embedding", "lm_head", "to_prompt", "mask_decoder")


def _order(value: str) -> str:
    if not ORDER.fullmatch(value):
        raise ValueError(ORDER_RULE)
    return value


class DataConfig(Frozen):
    """Data sets and sampling of the expressions.

    datasets             names as the dataset writes them; empty: all it has
    sampling             uniform over datasets, then images (GLaMM), or proportional to their size
    order                global: every pass a permutation of all; window:N: of N shards at a time,
                         for caches that are not on a local disk. The usual one is in no digest
    sentences_per_image  at most so many turns in one dialogue
    exclude_eval_images  leave out images that any val or test split uses
    task                 segment; caption: texts to say, no mask is read. The usual: in no digest
    """

    _later: ClassVar[frozenset[str]] = frozenset({"order", "task"})

    datasets: tuple[str, ...] = ()
    split: str = "train"
    sampling: Literal["uniform", "proportional"] = "uniform"
    order: Annotated[str, AfterValidator(_order)] = "global"
    sentences_per_image: Annotated[int, Field(ge=1, le=64)] = 3
    exclude_eval_images: bool = False
    task: Literal["segment", "caption"] = "segment"


class LoraConfig(Frozen):
    """Low-rank adapters of the language model; dropout and targets: docs/provenance.md."""

    r: Annotated[int, Field(ge=1, le=4096)] = 32
    alpha: Annotated[float, Field(gt=0)] = 16
    dropout: Unit = 0.05
    targets: tuple[str, ...] = LINEARS


class ProjectorConfig(Frozen):
    """A name of `model.projectors.PROJECTORS` and its keyword options."""

    name: str = "svp"
    options: dict[str, JsonValue] = Field(default_factory=dict)


class VisionConfig(Frozen):
    """The frozen encoder the caches must have been made with, as in the precompute recipe.

    second  the one whose last layer lies beside, "" for none; then it is in no digest
    """

    _later: ClassVar[frozenset[str]] = frozenset({"second"})

    encoder: str = "dinov2-large"
    view: Literal["squash", "center_crop", "pad", "clip"] = "squash"
    size: Count = 336
    second: str = ""

    @property
    def names(self) -> str:
        """As `svp precompute --encoder` takes them."""
        return self.encoder + (f"+{self.second}" if self.second else "")


def vision_of(features: FeatureConfig) -> VisionConfig:
    """The encoders a cache was made with, as a training recipe names them."""
    second = features.second.encoder if features.second else ""
    return VisionConfig(
        encoder=features.encoder, second=second, view=features.view, size=features.size
    )


class ModelConfig(Frozen):
    """The model before its first step.

    init         a whole model all parts but the projector start from: shipped (tiny), none, given
                 (a checkpoint of GLaMM or LISA, to be named by --init) or sha256:<hex> of one;
                 svp:<hex>: a folder of `svp export`, whose projector is kept where it is the same
    lm           where `init` is none: random:<seed>, given (--lm), sha256:<hex> or shipped (tiny)
    shape        fields of model.conversion.llama_shape.LlamaShape, for random weights
    sam_decoder  shipped (tiny), random:<seed>, given or sha256:<hex>; needed where `init` is none,
                 beside another `init` it replaces the decoder of that one
    mask_state   the state that predicts [SEG] (GLaMM) or the one at it
    mask_prompt  of the state (GLaMM, then in no digest), or of the visual token it points to (`model.ris`)
    dtype        of frozen weights and of the arithmetic; what trains is kept in float32
    warm_projector  it starts from the one that `init: shipped` was trained with (`train.warm_start`)
    first_lesson  with `init: none` it learns words and places first (`train.trainer.first_lesson`)
    new_rows_only  of embedding and head train the rows of the special tokens only
    rejection    sentences without a target are trained, with the answer [REJ] in the place of [SEG];
                 else they are left out. If it is off, it is in no digest
    system_text  system message of every dialogue, "" for none; None: that of `init`, or the template's
    """

    _later: ClassVar[frozenset[str]] = frozenset({"rejection", "mask_prompt", "first_lesson", "system_text"})  # fmt: skip

    init: Init = SHIPPED
    lm: LmSource = NONE
    shape: dict[str, Annotated[int | float, Field(gt=0)]] = Field(default_factory=dict)
    sam_decoder: DecoderSource = NONE
    vision: VisionConfig = VisionConfig()
    projector: ProjectorConfig = ProjectorConfig()
    warm_projector: bool = False
    first_lesson: bool = False
    lora: LoraConfig = LoraConfig()
    mask_state: Literal["predicting", "at_seg"] = "predicting"
    mask_prompt: Literal["projected", "pointed"] = "projected"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    new_rows_only: bool = False
    rejection: bool = False
    system_text: Said | None = None

    @model_validator(mode="after")
    def _one_start(self) -> "ModelConfig":
        if self.init == NONE and NONE in (self.lm, self.sam_decoder):
            raise ValueError("init=none: say where lm and sam_decoder start from, e.g. random:0")
        if NONE not in (self.init, self.lm):
            raise ValueError(f"init={self.init} brings lm: leave it none")
        return self


class StageConfig(Frozen):
    """One stage: a fresh optimizer with linear warm-up, then linear decay to zero at its end."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,30}$")]
    steps: Count
    lr: Annotated[float, Field(gt=0, le=10)] = 3e-4
    betas: tuple[Unit, Unit] = (0.9, 0.95)
    weight_decay: Weight = 0.0
    warmup: Annotated[int, Field(ge=0)] = 100
    clip: Annotated[float, Field(gt=0)] = 1.0
    add_sspe: bool = True
    lora: bool = False
    trains: tuple[Part, ...] = PARTS

    @model_validator(mode="after")
    def _consistent(self) -> "StageConfig":
        if self.warmup >= self.steps and self.warmup > 0:
            raise ValueError(
                f"warmup={self.warmup} must be less than steps={self.steps}: set both, or give --steps for a short try"
            )
        if self.lora and "lm" in self.trains:
            raise ValueError("lora with lm in `trains`: the whole language model trains already")
        if not self.trains and not self.lora:
            raise ValueError("nothing trains: name parts in `trains` or set lora: true")
        return self


class LossConfig(Frozen):
    """Weights of the losses, GLaMM's; `click` is of a prompt's distance from a click on its object
    (`model.mask_head`), `answer` of the token answers of a projector that has them. Both are in no digest
    with their default.
    """

    _later: ClassVar[frozenset[str]] = frozenset({"click", "answer"})

    ce: Weight = 1.0
    bce: Weight = 2.0
    dice: Weight = 0.5
    click: Weight = 0.0
    answer: Weight = 1.0


class RunConfig(Frozen):
    """Execution settings of a run; not in the digest, may differ when a run resumes.

    micro_batch  images per process and forward pass; global_batch is kept by accumulation
    gradient_checkpointing  the language model's layers are computed again in the backward pass;
                 auto, of both: chosen by the device's memory when a run starts (`train.estimates.sizing`)
    keep         checkpoints kept beside those of stage ends and the best
    validate     steps between two evaluations on held-out images, 0: only at the end of a stage
    """

    micro_batch: Annotated[int, Field(ge=1, le=65_536)] | Literal["auto"] = "auto"
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    threads: Annotated[int, Field(ge=1, le=64)] = 2
    log: Count = 10
    checkpoint: Count = 250
    keep: Annotated[int, Field(ge=1, le=1000)] = 2
    validate_every: Annotated[int, Field(ge=0)] = 0
    validate_images: Count = 200
    preview: Annotated[int, Field(ge=0)] = 250

    @property
    def images(self) -> int:
        """`micro_batch`; where nothing chose for auto, 2."""
        return 2 if self.micro_batch == "auto" else self.micro_batch

    @property
    def recompute(self) -> bool:
        """`gradient_checkpointing`; where nothing chose for auto, yes."""
        return self.gradient_checkpointing is not False


class TrainRecipe(Frozen):
    """One training run.

    budget  of visual tokens of a projector that reads superpixels; auto is in no digest
    """

    _later: ClassVar[frozenset[str]] = frozenset({"budget"})

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,60}$")] = "custom"
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    stages: Annotated[tuple[StageConfig, ...], Field(min_length=1, max_length=16)]
    global_batch: Annotated[int, Field(ge=1, le=1_000_000)] = 160
    loss: LossConfig = LossConfig()
    optimizer: Literal["adamw", "adamw8bit", "offload"] = "adamw"
    budget: BudgetField = AUTO
    run: RunConfig = RunConfig()

    @model_validator(mode="after")
    def _consistent(self) -> "TrainRecipe":
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"stages {names}: a name occurs twice")
        if self.budget.ask is not None:
            raise ValueError(
                f"budget={self.budget.text} is of answers: train with budget drawn and "
                "model.projector.options.token_answers=true"
            )
        return self

    @property
    def steps(self) -> int:
        """Optimizer steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> tuple[int, int]:
        """(stage index, steps done in it) after `step` steps of the run, `step` < `steps`."""
        for index, stage in enumerate(self.stages):
            if step < stage.steps:
                return index, step
            step -= stage.steps
        raise ValueError(f"step {step} is past the end of the run")

    def canonical(self) -> str:
        """Canonical JSON of what decides the result: all but `name` and `run`."""
        value = self.model_dump(mode="json", exclude={"name", "run"})
        return json.dumps(value, sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """sha256 of `canonical()`, hex."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


def share_of(recipe: TrainRecipe, world: int) -> int:
    """Images of one process per step. Raises ConfigError unless every process has equally many."""
    whole = recipe.global_batch
    if whole % world:
        counts = " or ".join(
            str(n) for n in range(1, whole + 1) if whole % n == 0 and n < 2 * world
        )
        raise ConfigError(
            f"global_batch {whole} cannot be divided over {counted(world, 'process')}: start "
            f"{counts} (accelerate launch --num_processes N), or give the recipe another one "
            f"(--set global_batch={(whole // world + 1) * world})"
        )
    return whole // world


def split_evenly(recipe: TrainRecipe, world: int) -> int:
    """Micro-batches per process and step. Raises ConfigError unless micro x them x `world` = global."""
    micro, share = recipe.run.images, share_of(recipe, world)
    if share % micro:
        raise ConfigError(
            f"micro_batch {micro} x accumulation x {world} ranks cannot be the recipe's "
            f"global_batch {recipe.global_batch}: use a micro_batch that divides {share} "
            "(--micro-batch, or --set run.micro_batch=auto), another number of processes, or "
            "--set global_batch=N"
        )
    return share // micro


def micro_batches(recipe: TrainRecipe, world: int, largest: int) -> list[int]:
    """Possible micro-batches on `world` processes, rising: the recipe's own, or for auto every number
    up to `largest` that divides a process's share. Raises ConfigError as `split_evenly`.
    """
    if recipe.run.micro_batch != "auto":
        split_evenly(recipe, world)
        return [recipe.run.micro_batch]
    share = share_of(recipe, world)
    return [n for n in range(1, min(share, largest) + 1) if share % n == 0]


def parse_train_recipe(raw: object, where: str) -> TrainRecipe:
    """A `TrainRecipe` from untrusted data; every wrong field is named in one `ConfigError`."""
    try:
        return TrainRecipe.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error, TrainRecipe)}") from None


# Names in a run folder: its recipe, its record, its checkpoints and the beginning of their names.
CONFIG, METRICS = "config.yaml", "metrics.jsonl"
CHECKPOINTS, PREFIX = "checkpoints", "step-"
BESIDE = ("digest", "on")  # what config.yaml has beside the recipe
