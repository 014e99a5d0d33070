"""`svp doctor`: check this machine, and what can be chosen on it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from ...pipeline.commands.console import as_json, report
from ...pipeline.commands.path_types import PLACE
from ...pipeline.commands.precompute import RECIPE_FLAGS, recipe_options

if TYPE_CHECKING:
    from ...model.language.adapter import Language
    from ...pipeline.doctor.report import Finding
    from ...pipeline.store import Place


@click.command("doctor")
@recipe_options
@click.option("--from-cache", "--cache", "cache_path", type=PLACE, help="Also check this cache.")
@click.option(
    "--gpus",
    is_flag=True,
    help="Show what fits which GPU, by the memory estimates of the shipped recipes.",
)
@as_json
def doctor_command(cache_path: "Place | None", gpus: bool, as_json: bool, **options: Any) -> None:
    """Check versions, devices, disk, memory and weights; list models, formats and projectors."""
    from ...pipeline.doctor.examine import examine

    if gpus:
        from ..runs.hardware import hardware

        return report(hardware(), as_json)

    flags = {name: options.pop(name) for name in RECIPE_FLAGS}
    parts = (*_languages(), *_projectors())
    report(examine(flags, cache=cache_path, parts=parts, **options), as_json)


def _languages() -> Iterator["Finding"]:
    """The families of language models, with the folders of each that are on this machine."""
    from ...model.language.families import FAMILIES
    from ...model.language.packaged import PACKAGE, SMOLLM2
    from ...pipeline import plugins
    from ...pipeline.doctor.choices import area, choice
    from ...pipeline.weights.locate import model_folders

    title = "language models"
    found: dict[str, list[str]] = {}
    for folder, kind in model_folders():
        found.setdefault(kind, []).append(str(folder))

    def lines() -> Iterator["Finding"]:
        yield choice(title, f"--lm {SMOLLM2}", "SmolLM2-135M-Instruct, in a package",
                     packages=(PACKAGE, "gguf"))  # fmt: skip
        for language in {id(known): known for known in FAMILIES.values()}.values():
            names = [name for name, known in FAMILIES.items() if known is language]
            yield _family(
                title, language, names, [f for name in names for f in found.get(name, ())]
            )

    yield from area(title, plugins.LANGUAGES, lines)


def _family(
    title: str, language: "Language", names: Sequence[str], folders: Sequence[str]
) -> "Finding":
    """A family's line: its models, and whether transformers and a folder of one are there."""
    from transformers import __version__
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN

    from ...model.language.adapter import unscaled
    from ...pipeline.display import show
    from ...pipeline.doctor.choices import choice

    about = [language.title]
    if language.visual_scale is not unscaled:
        about.append("visual tokens are scaled as its embedding scales words")
    if folders:
        about.append(f"found at {', '.join(show(folder, 200) for folder in folders[:3])}")
    lacks = []
    if language.model_type not in KNOWN:
        need = f"transformers {__version__} has no {language.model_type}"
        lacks.append(f"{need}: pip install -U transformers")
    if not folders:
        lacks.append(
            "no folder found: --lm PATH" + (f". {language.access}" if language.access else "")
        )
    return choice(title, ", ".join(names), ", ".join(about), lacks="; ".join(lacks))


_INPUTS: Mapping[str, str] = {
    "masks": "superpixels",
    "cls": "the CLS token",
    "multi": "four encoder layers",
}


def _projectors() -> Iterator["Finding"]:
    """The projectors, with what each reads of a cache."""
    from ...model.projectors import PROJECTORS
    from ...pipeline import plugins
    from ...pipeline.doctor.choices import area, choice

    yield from area("projectors", plugins.PROJECTORS, lambda: (
        choice("projectors", name, "reads " + ", ".join(
            ["patch features", *(_INPUTS[need] for need in sorted(kind.needs))]))
        for name, kind in PROJECTORS.items()
    ))  # fmt: skip
