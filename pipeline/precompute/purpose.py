"""Purpose of a cache: the arrays its projectors read, and the uses it rules out.

Training reads the SAM image embedding beside the superpixels and patch features (the mask decoder
takes it), and some projectors the CLS token or four encoder layers. Adding them later reads every
photograph again: so the purpose is asked before the hours, and said.
"""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .. import plugins
from ..cache.places import DataPlaces, read_places
from ..cache.plan import Plan
from ..errors import ConfigError
from ..fetch.sam_specs import SAMS, USUAL_SAM
from ..recipe import FeatureConfig, Recipe, encoder_row
from ..store import Place

Purpose = Literal["train", "look"]
SAM, CLS, LAYERS = "the SAM image embedding", "the CLS token", "four encoder layers"
PATCHES = "patch features"

# Extra inputs of each projector: "cls", "multi" (four layers), "masks". The classes say the same
# (`Projector.needs`); this table spares the offline half their import, and a test compares.
NEEDS: dict[str, frozenset[str]] = {
    "mlp": frozenset(),
    "pixel_shuffle": frozenset(),
    "c_abstractor": frozenset(),
    "d_abstractor": frozenset(),
    "deco": frozenset(),
    "ldpv2": frozenset(),
    "qformer": frozenset(),
    "svp": frozenset({"masks"}),
    "tokenpacker": frozenset({"multi"}),
    "pvtc": frozenset({"cls"}),
    "fusion": frozenset({"masks", "multi"}),
    "divt": frozenset(),
    "tome": frozenset(),
    "divprune": frozenset(),
    "random_patches": frozenset(),
    "payn": frozenset(),
    "mqt": frozenset(),
    "m3": frozenset(),
    "adatok": frozenset({"masks"}),
}
# Options that let a projector do with the means of the superpixels, without patches: all that a thin
# cache serves. The classes say the same (`Projector.reads_patches`).
ON_MEANS = {
    "svp": "ssa_variant=none",
    "fusion": "svp.ssa_variant=none",
}
# What a training of each size starts from where the recipe leaves it to the user.
START_FROM = {
    "paper": ("--init", "GLaMM-GranD-Pretrained"),
    "small": ("--lm", "LM_FOLDER", "--sam-decoder", SAMS[USUAL_SAM["mobile_sam"]].files[0]),
    "world2": ("--recipe", "world2.yaml", "--init", "exports/aligned"),
}


@dataclass(frozen=True, slots=True)
class Stores:
    """Defaults of the stored arrays where the recipe leaves them open."""

    sam: bool = False
    cls: bool = False
    layers: bool = False
    last: bool = False  # the last four layers instead of TokenPacker's

    def apply(self, raw: dict[str, Any]) -> None:
        """Fill in what the raw recipe `raw` leaves open; what it says stays."""
        features = raw["features"]
        if self.sam:
            raw.setdefault("store_sam_embeddings", True)
        if self.cls:
            features.setdefault("cls", True)
        if (
            self.layers and features.get("second") and self.last
        ):  # beside the first's own last layer
            depth = _depth(features)
            features.setdefault("layers", [depth] if depth else [])
        elif self.layers:
            depth = _depth(features)
            if depth:
                features.setdefault("layers", four_layers(depth, last=self.last))


LOOK = Stores()


def stores(purpose: Purpose, projector: str) -> Stores:
    """Arrays that training of `projector` reads; none for viewing. Raises ConfigError."""
    needs = needs_of(projector)
    if purpose == "look":
        return LOOK
    # The fusion of layers takes the last four (Table 7); TokenPacker's are spread over the depth.
    return Stores(sam=True, cls="cls" in needs, layers="multi" in needs, last="masks" in needs)


def needs_of(projector: str) -> frozenset[str]:
    """Extra inputs of a projector by name, a plug-in's too. Raises ConfigError for an unknown one."""
    if projector in NEEDS:
        return NEEDS[projector]
    return frozenset(plugins.lookup(plugins.PROJECTORS, projector, NEEDS).needs)


def require_means(recipe: Recipe, projector: str) -> None:
    """ConfigError if a recipe without patch features is for a projector that always reads them."""
    if recipe.features.thin and projector in NEEDS and projector not in ON_MEANS:
        raise ConfigError(
            f"--projector {projector} reads {PATCHES}, which a thin cache does not hold: leave out "
            f"--thin (features.stored=mean); it serves {_and(list(ON_MEANS))} without SSA"
        )


def _depth(features: dict[str, Any]) -> int:
    """Blocks of the encoder a raw recipe names; 0 if it is unknown or has fewer than four."""
    row = encoder_row(str(features.get("encoder", "tiny")))
    return row.blocks if row and row.blocks >= 4 else 0


def four_layers(depth: int, *, last: bool = False) -> list[int]:
    """1-based blocks: the last four, or TokenPacker's 12, 16, 22, 23 of 24 scaled to `depth`.

    >>> four_layers(24), four_layers(12), four_layers(6), four_layers(24, last=True)
    ([12, 16, 22, 23], [6, 8, 11, 12], [3, 4, 5, 6], [21, 22, 23, 24])
    """
    if last:
        return list(range(depth - 3, depth + 1))
    return [depth // 2, 2 * depth // 3, 11 * depth // 12, -(-23 * depth // 24)]


def lacks(recipe: Recipe, needs: Iterable[str], sources: int = 4) -> list[str]:
    """Arrays that a model with these `needs` reads and a cache of this recipe lacks, as text.

    sources  maps side by side that "multi" stands for
    """
    features = recipe.features
    holds = {"masks": True, "cls": features.cls, "multi": features.stored_layers == sources}
    words = {"cls": CLS, "multi": LAYERS if sources == 4 else f"{sources} maps of features"}
    missing = [words.get(need, need) for need in sorted(needs) if not holds.get(need, False)]
    return [*missing, *([] if recipe.store_sam_embeddings else [SAM])]


def command_for_patches(plan: Plan, cache: Place | None = None) -> str:
    """The command that adds the patch features which a thin cache lacks."""
    words = ["svp", "cache", "add", str(cache or "CACHE"), "features"]
    words += ["--encoder", plan.recipe.features.name]
    return shlex.join([*words, *plugins.plugin_words()])


def announce(recipe: Recipe) -> list[str]:
    """Notice about the content of a cache of this recipe, and the uses that it rules out."""
    features = recipe.features
    means = f"the mean of each on {features.encoder} features (no {PATCHES})"
    holds = ["superpixels", means if features.thin else f"{features.encoder} features"]
    holds += [f"the last layer of {features.second.encoder}"] if features.second else []
    holds += [SAM] if recipe.store_sam_embeddings else []
    holds += [CLS] if features.cls else []
    if features.layers:
        holds.append(f"encoder layers {', '.join(map(str, features.layers))}")
    lines = [f"the cache will hold {_and(holds)}"]
    if not recipe.store_sam_embeddings:
        lines.append(
            "it is for viewing and statistics: svp train cannot read it, because "
            f"{SAM} is not stored (--for train stores it)"
        )
        return lines
    missing = {name: lacks(recipe, needs) for name, needs in sorted(NEEDS.items())}
    if features.thin:
        served = [f"{name} with {ON_MEANS[name]}" for name in ON_MEANS if not missing[name]]
        lines.append(f"it trains {_and(served)} alone: all others read {PATCHES}")
        return lines
    lines.append(f"it trains {', '.join(name for name, what in missing.items() if not what)}")
    if rest := [f"{name} ({_and(what)})" for name, what in missing.items() if what]:
        each = ", ".join(rest)
        lines.append(f"it cannot train {each}: --projector NAME stores the inputs of one of these")
    return lines


def command_for(
    plan: Plan,
    projector: str,
    cache: Place | None = None,
    *,
    features: Mapping[str, str] | None = None,
) -> str:
    """The command that makes the cache which `projector` reads, from the data of this one.

    plan, cache  the cache that does not fit, and where it lies if that is known
    features     fields of `recipe.FeatureConfig` that must differ, by name
    """
    places = read_places(cache) if cache else None
    words = list(places.command) if places and places.command else _rebuilt(plan, places)
    words = _without(words, "--out", "--for", "--projector", "--price")
    dropped = ("--store-sam-embeddings", "--no-store-sam-embeddings", "--dry-run", "--no-resume")
    words = [word for word in words if word not in dropped]
    changes = dict(features or {})
    if encoder := changes.pop("encoder", None):
        words = [*_without(words, "--encoder", "--encoder-weights"), "--encoder", encoder]
    for name, value in changes.items():
        words += ["--set", f"features.{name}={value}"]
    if plan.thin:  # and so a copy whose original is not; patches where the projector reads them
        words = _without([word for word in words if word != "--thin"], "--features")
        words += ["--thin"] if projector in ON_MEANS else []
    if projector != "svp":
        words += ["--projector", projector]
    words += plugins.plugin_words(words)
    out = cache or f"caches/{projector}"  # what it holds already is not computed again
    return shlex.join(["svp", "precompute", *words, "--out", str(out)])


def next_command(
    recipe: Recipe,
    split: str,
    cache: Place,
    *,
    size: str | None,
    projector: str,
    usual: FeatureConfig,
) -> str:
    """The command that uses a finished cache, for a shell: training, evaluation or looking.

    size   as it was said to `svp precompute`; None: not at all
    usual  the features that the training recipe of this size reads; others are named
    """
    where = str(cache)
    if not recipe.store_sam_embeddings:
        return shlex.join(["svp", "cache", "browse", where])
    if split not in ("", "train"):
        tiny = ["--size", "tiny"] if size == "tiny" else []
        return shlex.join(["svp", "eval", *tiny, "--from-cache", where, *plugins.plugin_words()])
    words = ["svp", "train", *(["--size", size] if size else []), "--from-cache", where]
    words += ["--projector", projector] if projector != "svp" else []
    have = recipe.features
    if have.thin and projector in ON_MEANS:
        words += ["--set", f"model.projector.options.{ON_MEANS[projector]}"]
    second = (have.second.encoder if have.second else None, usual.second and usual.second.encoder)
    fields = {
        "encoder": (have.encoder, usual.encoder), "view": (have.view, usual.view),
        "size": (have.size, usual.size), "second": second,
    }  # fmt: skip
    for name, (value, expected) in fields.items():
        words += ["--set", f"model.vision.{name}={value}"] if value != expected else []
    start = "world2" if have.encoder == usual.encoder == "tiny-world2" else size or ""
    return shlex.join([*words, *START_FROM.get(start, ()), *plugins.plugin_words()])


def _rebuilt(plan: Plan, places: DataPlaces | None) -> list[str]:
    """Options that give this recipe's models again; which data is not in a plan."""
    pixels, features = plan.recipe.superpixels, plan.recipe.features
    words = ["--split", plan.split] if plan.split else []
    words += ["--dataset", places.dataset if places else "DATA"]
    words += ["--root", str(places.root)] if places and places.root else []
    words += ["--superpixels", pixels.source, "--sam-model", pixels.model]
    words += ["--encoder", features.name]
    if features.second and features.second.size:
        words += ["--set", f"features.second.size={features.second.size}"]
    return words


def _without(words: Iterable[str], *options: str) -> list[str]:
    """`words` less these options with their values, `--name value` or `--name=value`."""
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        if word in options:
            next(rest, None)
            if word == "--price":
                next(rest, None)
        elif word.split("=")[0] not in options:
            kept.append(word)
    return kept


def _and(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
