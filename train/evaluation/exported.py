"""Evaluate a folder of `svp export`, with its own tokenizer and preprocessing."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...model.pretrained import load_pretrained
from ...model.pretrained.config import ModelFile, read_model_file
from ...pipeline.cache.plan import Plan
from ...pipeline.display import counted, show
from ...pipeline.errors import ConfigError, PlanMismatchError
from ...pipeline.recipe import Recipe
from ...pipeline.store import Place
from ...pipeline.weights.load import weights_digest
from ...pipeline.weights.reference import WeightsRef
from ..data.encoder_identity import features_of, require_patches, require_same_features
from ..data.sam_identity import require_embedding, require_same_sam, sam_of
from ..data.tokenizer import load_vocabulary
from ..recipe import ModelConfig, ProjectorConfig, StageConfig, TrainRecipe, vision_of

if TYPE_CHECKING:
    from .trained import Trained


@dataclass(frozen=True)
class Exported:
    """An export, its weights not read yet.

    digest  sha256 of its weights, as `weights_digest` names them
    """

    folder: Path
    about: ModelFile
    digest: str

    @classmethod
    def open(cls, folder: Path) -> "Exported":
        """Raises MissingError, WeightsError."""
        return cls(folder, read_model_file(folder), weights_digest(folder))

    @property
    def recipe(self) -> Recipe:
        """Preprocessing recipe of the export. Raises ConfigError if it was saved without."""
        if self.about.preprocessing is None:
            raise ConfigError(
                f"{show(str(self.folder), 200)}: was exported without its preprocessing: name a "
                "cache the model reads with --cache PATH, or export it again with `svp export`"
            )
        return self.about.preprocessing.recipe


def require_plan(found: Exported, plan: Plan, cache: Place | None = None) -> None:
    """PlanMismatchError if the model cannot read caches of `plan`: another encoder, view or SAM;
    ConfigError if it reads patches and the cache is thin.
    """
    about, features = found.about, plan.recipe.features
    require_patches(about.projector.name, about.projector.options, plan, cache)
    if about.preprocessing is not None:
        want = about.preprocessing.recipe.features
        if vision_of(want) != vision_of(features):
            raise PlanMismatchError(
                f"cache {plan.id[:12]} was made with {features.name}, view {features.view}, "
                f"{features.size} px; {show(found.folder.name)} reads {want.name}, view "
                f"{want.view}, {want.size} px"
            )
        sam = sam_of(about.preprocessing.recipe)
        who, name = f"the model {found.folder.name}", about.projector.name
        require_same_sam(sam, plan, who)
        wanted = features_of(about.preprocessing.recipe, name)
        require_same_features(wanted, plan, name, who)
    if about.projector.in_dim != plan.channels:
        raise PlanMismatchError(
            f"cache {plan.id[:12]} has features of {counted(plan.channels, 'channel')}, "
            f"{show(found.folder.name)} reads {about.projector.in_dim}"
        )


def open_exported(found: Exported, plan: Plan, *, decoder: bool = True) -> "Trained":
    """The model on caches (or live readers) with `plan`, on the CPU, in evaluation mode.

    decoder  as `load_trained.open_trained`

    Raises PlanMismatchError (a cache of another encoder, view or SAM), WeightsError, MissingError.
    """
    from .trained import Trained

    require_plan(found, plan)
    about = found.about
    model = load_pretrained(found.folder)
    require_embedding(model, plan, decoder=decoder)
    recipe = TrainRecipe(
        name="exported",
        model=ModelConfig(
            init=WeightsRef("svp", found.digest),
            vision=vision_of(plan.recipe.features),
            projector=ProjectorConfig(
                name=about.projector.name, options=dict(about.projector.options)
            ),
            mask_state=about.mask_state,
            mask_prompt=about.mask_prompt,
            dtype="float32" if about.language.dtype == "float32" else "bfloat16",
        ),
        stages=(StageConfig(name="exported", steps=1, warmup=0),),
    )
    digests = {"checkpoint": found.digest, "exported": found.folder.resolve().name}
    return Trained(model, load_vocabulary(found.folder), recipe, digests)
