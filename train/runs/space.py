"""`svp export --space`: a folder that a Space of the Hugging Face hub runs as it is.

    README.md         the hub's front matter
    app.py            the demo page of the model
    requirements.txt  packages that svp needs there
    model/            the export
    svp/              this package, as it answers now

The package itself is copied, because a Space installs its requirements before it has the folder's files.
"""

import importlib.resources
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import yaml
from packaging.requirements import Requirement

from ...model.pretrained.config import read_model_file
from ...pipeline.fetch.encoder_specs import ENCODERS, EncoderSpec
from ...pipeline.fetch.sam_specs import SAMS, SamSpec
from ...pipeline.io.atomic import write_file, writing
from ...pipeline.precompute.toy_guard import toy_models
from ...pipeline.recipe import Recipe

APP, MODEL, PACKAGE = "app.py", "model", "svp"
EXTRAS = ("", "fetch", "train")
DATA = "workflows"  # recipes and tiny models, beside the packages
LEFT_OUT = shutil.ignore_patterns("__pycache__", "pretrain_tiny", "*.pyc")

_APP = '''\
"""Demo of a model of svp. `python app.py` shows it on this machine alone; a Space names its address."""

import os
from pathlib import Path

from svp.pipeline.fetch.fetch import fetch
from svp.pipeline.weights.locate import search_weights
from svp.train.runs.demo import DemoRequest, demo_command

HERE = Path(__file__).resolve().parent
os.chdir(HERE)
for model, name in {fetched!r}:
    if search_weights(model) is None:
        fetch(name, Path("weights"))

demo_command(
    DemoRequest(
        checkpoint=HERE / "{folder}",
        size={size!r},
        host=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
        port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")),
    )
)
'''
_README = """\
---
{header}---

# {title}

Referring image segmentation with `svp`: a photograph and an expression in, a mask out; beside it the
superpixels that the language model reads, its attention to them, and what fewer tokens save. The model is
described in [{folder}/README.md]({folder}/README.md).

`pip install -r requirements.txt` and `python app.py` show the page on your own machine, at
<http://127.0.0.1:7860>. As a Space it is for everyone who can see the Space: photographs are sent to it.
{weights}"""


def write_space(out: Path, title: str, licence: str) -> None:
    """Write the files of a Space beside the export in `out / MODEL`.

    Raises CacheError if a file cannot be written.
    """
    about = read_model_file(out / MODEL)
    recipe = about.preprocessing.recipe if about.preprocessing else None
    fetched, others = _weights(recipe)
    # On photographs, too: the page says which scenes a tiny model knows.
    toy = recipe is not None and bool(toy_models(recipe))
    app = _APP.format(fetched=fetched, folder=MODEL, size="tiny" if toy else None)
    gradio = _gradio()
    header = yaml.safe_dump(_header(title, licence, gradio), sort_keys=False)
    weights = "".join(f"\nPut the weights of {name} into `weights/`.\n" for name in others)
    readme = _README.format(header=header, title=title, folder=MODEL, weights=weights)
    for name, text in ((APP, app), ("README.md", readme), ("requirements.txt", _needs(gradio))):
        write_file(out / name, text.encode(), label="space")
    _copy_package(out / PACKAGE)


def folded(files: Mapping[str, int]) -> dict[str, int]:
    """Sizes by name, the package's files as one line."""
    own = {name: size for name, size in files.items() if not name.startswith(f"{PACKAGE}/")}
    return own | {f"{PACKAGE}/": sum(files.values()) - sum(own.values())}


def _weights(recipe: Recipe | None) -> tuple[list[tuple[str, str]], list[str]]:
    """(model, name of `svp fetch`) of frozen models, and those that it does not bring."""
    if recipe is None:
        return [], []
    pixels, features = recipe.superpixels, recipe.features
    rows: list[SamSpec | EncoderSpec] = [SAMS[pixels.model], ENCODERS[features.encoder]]
    rows += [ENCODERS[features.second.encoder]] if features.second else []
    asked = [row for row in rows if not row.stand_in]
    fetched = [(row.name, row.remote.name) for row in asked if row.remote]
    return fetched, [row.name for row in asked if not row.remote]


def _gradio() -> str:
    """Version of Gradio on this machine, "" without it."""
    try:
        return metadata.version("gradio")
    except metadata.PackageNotFoundError:
        return ""


def _header(title: str, licence: str, gradio: str) -> dict[str, object]:
    """Front matter that the hub configures the Space by."""
    known = {"sdk_version": gradio} if gradio else {}
    return {
        "title": title, "emoji": "✂️", "colorFrom": "blue", "colorTo": "gray", "sdk": "gradio",
        **known, "python_version": "3.11", "app_file": APP, "license": licence,
    }  # fmt: skip


def _needs(gradio: str) -> str:
    """requirements.txt: Gradio, and what the package requires with `EXTRAS`."""
    lines = [f"gradio=={gradio}\n" if gradio else "gradio\n"]
    for one in map(Requirement, metadata.requires("svp") or ()):
        if one.marker is None or any(one.marker.evaluate({"extra": name}) for name in EXTRAS):
            extras = f"[{','.join(sorted(one.extras))}]" if one.extras else ""
            lines.append(f"{one.name}{extras}{one.specifier}\n")
    return "".join(dict.fromkeys(lines))


def _copy_package(folder: Path) -> None:
    root = Path(str(importlib.resources.files("svp")))
    with writing(folder):
        packages = [path.parent.name for path in root.glob("*/__init__.py")]
        for name in (*packages, DATA):
            shutil.copytree(root / name, folder / name, ignore=LEFT_OUT)
        for path in (*root.glob("*.py"), root / "py.typed"):
            shutil.copy(path, folder / path.name)
