"""Guard against running the tiny models, which know only generated scenes, on photographs.

The tiny models were trained on the scenes of `svp data synth`, as stand-ins that need no download.
Their masks and answers on photographs look like results and mean nothing, so running them there (to
try the code) requires an explicit `--size tiny`, or SVP_SIZE.
"""

from ..errors import ConfigError
from ..fetch.encoder_specs import ENCODERS
from ..fetch.sam_specs import SAMS
from ..recipe import Recipe
from ..weights.reference import WeightsRef

SAID = "tiny"


def require_real_models(
    what: str,
    *,
    generated: bool,
    size: str | None,
    precompute: Recipe | None = None,
    language_model: WeightsRef | None = None,
    instead: str = "",
) -> None:
    """Refuse the tiny models on data that is not generated, unless `--size tiny` is given.

    what            names the data in the message
    generated       whether all of it are generated scenes
    size            what was said by --size or SVP_SIZE; None: nothing
    precompute      the recipe that cut, or will cut, the photographs
    language_model  `model.init` of the training recipe
    instead         the command that does it with real models; "" for the options of any command

    Raises ConfigError.
    """
    toys = toy_models(precompute, language_model)
    if generated or size == SAID or not toys:
        return
    given = instead or "--size small or --size paper" + (
        "" if language_model else ", or your own with --sam-weights FILE and --encoder NAME"
    )
    raise ConfigError(
        f"{what}: not generated scenes, and {' and '.join(toys)} know{'s' * (len(toys) == 1)} "
        f"nothing else: take {given}. To try the code anyway, give --size tiny "
        '(or set SVP_SIZE=tiny; in Python size="tiny")'
    )


def toy_models(precompute: Recipe | None, language_model: WeightsRef | None = None) -> list[str]:
    """Tiny models among those that would be used, as text."""
    toys = []
    if precompute is not None:
        reads_sam = precompute.superpixels.prompts_sam or precompute.store_sam_embeddings
        if reads_sam and SAMS[precompute.superpixels.model].stand_in:
            toys.append("the tiny SAM")
        if ENCODERS[precompute.features.encoder].stand_in:
            toys.append("the tiny encoder")
    if language_model is not None and language_model.kind == "shipped":
        toys.append("the tiny language model")
    return toys
