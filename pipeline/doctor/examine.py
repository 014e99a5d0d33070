"""`svp doctor`: run the checks that a recipe with the given options needs."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..precompute.options import Flags, resolve
from ..records import LocalPaths
from ..store import Place
from ..weights.reference import WeightsRef
from .choices import choices
from .report import DoctorReport, Finding, doctor

WEIGHTS = ("sam_weights", "encoder_weights", "second_weights")


def examine(
    flags: dict[str, Any],
    size: str,
    recipe_file: Path | None,
    overrides: tuple[str, ...],
    cache: Place | None,
    parts: Iterable[Finding] = (),
) -> DoctorReport:
    """`svp doctor` for the recipe these options name; missing weights are a finding, no error.

    parts  what can be chosen in training, which the caller knows
    """
    given = {name: flags[name] for name in WEIGHTS}
    # Random weights stand in while the recipe is built: nothing has to be found or hashed for it.
    stand_in = Flags(**(flags | dict.fromkeys(WEIGHTS, "random")))
    recipe, _ = resolve(size, recipe_file, stand_in, overrides, Path())
    sam, encoder, second = (Path(path) if path else None for path in given.values())
    refs = [
        WeightsRef.from_option(path, ("random",), f"--{name.replace('_', '-')}")
        or WeightsRef("auto")
        for name, path in given.items()
    ]
    pixels = recipe.superpixels.model_copy(update={"weights": refs[0]})
    features = recipe.features.model_copy(update={"weights": refs[1]})
    if features.second is not None:
        named = {"weights": refs[2]}
        features = features.model_copy(update={"second": features.second.model_copy(update=named)})
    needed = recipe.model_copy(update={"superpixels": pixels, "features": features})
    return doctor(
        recipe=needed, where=LocalPaths(Path(), sam, encoder, second), folder=Path(), cache=cache,
        size=None if recipe_file else size, parts=(*choices(), *parts),
    )  # fmt: skip
