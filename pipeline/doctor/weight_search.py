"""Weight files that a recipe needs: their sizes, and the paths where they were found.

Users of such systems ask first which of many files they need. Sizes of published
files are known to the byte, so a cut-off download is seen here without reading it.
"""

from dataclasses import dataclass
from pathlib import Path

from ..display import show
from ..errors import SvpError, describe
from ..fetch.catalogue import CHECKPOINTS
from ..fetch.encoder_specs import ENCODERS, EncoderSpec
from ..fetch.sam_specs import SAMS, SamSpec
from ..io.yaml_files import shipped_yaml
from ..recipe import Recipe
from ..records import LocalPaths
from ..weights.locate import find_checkpoint, given_weights, search_weights, weight_folders
from ..weights.reference import WeightsRef

PACKAGE = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Need:
    """One model of a recipe.

    found   the file or folder is there, or none is needed
    fault   what is wrong with it, or ""
    detail  one line: what, size, where found or where it was looked for
    """

    name: str
    found: bool
    detail: str
    fault: str = ""


def needed_weights(recipe: Recipe, where: LocalPaths | None = None) -> list[Need]:
    """The superpixel model's and the encoder's weights; SLIC needs SAM for its embedding only."""
    pixels, features = recipe.superpixels, recipe.features
    needs = []
    if pixels.prompts_sam or recipe.store_sam_embeddings:
        asked = _Asked(SAMS[pixels.model], pixels.weights, "--sam-weights")
        needs.append(_need(f"superpixels {pixels.model}", asked, where.sam if where else None))
    asked = _Asked(ENCODERS[features.encoder], features.weights, "--encoder-weights")
    needs.append(_need(f"encoder {features.encoder}", asked, where.encoder if where else None))
    if features.second is not None:
        beside = features.second
        asked = _Asked(ENCODERS[beside.encoder], beside.weights, "--second-weights")
        needs.append(_need(f"encoder {beside.encoder}", asked, where.second if where else None))
    return needs


def needed_checkpoint(size: str) -> list[Need]:
    """Checkpoint that training at `size` starts from, where its shipped recipe leaves it open."""
    model = shipped_yaml("train", size).get("model") or {}
    kinds = {"init": "GLaMM-GranD-Pretrained", "lm": "vicuna-7b-v1.5"}
    needs = []
    for field, name in kinds.items():
        if not isinstance(model, dict) or model.get(field) != "given":
            continue
        known, place = CHECKPOINTS[name], find_checkpoint(name)
        what = "checkpoint" if field == "init" else "language model"
        if place:
            needs.append(Need(f"{what} {name}", True, f"found at {show(str(place), 300)}"))
        else:
            detail = f"not found: svp train --size {size} starts from it: {known.how}"
            needs.append(Need(f"{what} {name}", False, detail))
    return needs


@dataclass(frozen=True, slots=True)
class _Asked:
    spec: SamSpec | EncoderSpec
    weights: WeightsRef
    flag: str

    @property
    def shipped(self) -> Path:
        """Path of the shipped weights, if they are part of this package."""
        return PACKAGE / self.spec.shipped


def _need(name: str, asked: _Asked, given: Path | None) -> Need:
    if asked.weights.kind == "random":
        return Need(name, True, f"random weights (seed {asked.weights.value}): no file needed")
    try:
        place = given_weights(given, asked.flag) if given else _find(asked)
    except SvpError:
        place = None
    if place is None or not place.exists():
        return Need(name, False, _advice(asked, given))
    try:
        size = sum(file.stat().st_size for file in _weight_files(place))
    except (SvpError, OSError) as error:
        fault = describe(error)
        return Need(name, True, fault, fault)
    detail = f"{size / 1e6:,.1f} MB, found at {show(str(place), 300)}"
    wanted = _published_size(asked.spec, place)
    if wanted and size != wanted:
        fault = f"{size:,} bytes, the published file has {wanted:,}"
        return Need(name, True, f"{detail}: {fault}: `svp fetch {asked.spec.name}` again", fault)
    return Need(name, True, detail)


def _find(asked: _Asked) -> Path | None:
    if asked.spec.shipped:
        return asked.shipped
    return search_weights(asked.spec.name)


def _weight_files(place: Path) -> list[Path]:
    from ..weights.file_checks import shards

    return sorted(shards(place)) if place.is_dir() else [place]


def _published_size(spec: SamSpec | EncoderSpec, place: Path) -> int:
    """Exact bytes of the published file of that name, 0 where unknown."""
    for file in spec.remote.files if spec.remote else ():
        if file.exact and Path(file.path).name == place.name:
            return file.size
    return 0


def _advice(asked: _Asked, given: Path | None) -> str:
    """Message for a missing file: name, size, searched paths, remedy."""
    remote = asked.spec.remote
    size = f" ({remote.size / 1e6:,.0f} MB)" if remote else ""
    if given:
        return f"not found{size}: {show(str(given), 300)}, given with {asked.flag}, is not there"
    if asked.spec.shipped:
        return f"not found: {show(str(asked.shipped), 300)} belongs to this package: install again"
    names = " or ".join(asked.spec.files or ("(no known file name)",))
    folders = ", ".join(show(str(folder), 200) for folder in weight_folders())
    if isinstance(asked.spec, EncoderSpec) and asked.spec.hub:
        folders += f", and for {asked.spec.hub} in the hub's local cache"
    hub = asked.spec.hub
    fetch = (
        f"`svp fetch {remote.name}`, or " if remote else f"`hf download {hub}`, or " if hub else ""
    )
    access = asked.spec.access if isinstance(asked.spec, EncoderSpec) else ""
    more = f". {access}" if access else ""
    return f"not found{size}: looked for {names} in {folders}. {fetch}{asked.flag} PATH{more}"
