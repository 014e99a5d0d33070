"""Summary facts at the head of the page."""

from dataclasses import dataclass

from ..cache.plan import Plan
from ..cache.stats import LEVELS, StatsReport
from ..display import counted, share, shorten
from ..recipe import FeatureConfig, Recipe, SuperpixelConfig
from ..records import PART, SUB_PART, WHOLE
from .histograms import Histogram, histogram

SOURCES = {"sam": "SAM", "mobile_sam": "MobileSAM", "slic": "SLIC (scikit-image)",
           "masks": "masks of a folder"}  # fmt: skip
VIEWS = {"squash": "squashed", "center_crop": "centre crop", "pad": "padded", "clip": "as CLIP"}


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure: what it is, its value, and one line under it."""

    name: str
    value: str
    note: str
    link: str = ""


def tiles(found: StatsReport) -> list[Tile]:
    """The main figures of a cache, the most important first."""
    bad = sum(found.quarantined.values())
    reasons = ", ".join(f"{count} {reason}" for reason, count in found.quarantined.items())
    where = f"measured on {counted(found.sampled, 'image')}"
    return [
        Tile("Images", f"{found.ok:,}", f"of {found.images:,} planned"),
        Tile(
            "Superpixels",
            f"{found.tokens.mean:.1f}",
            f"per image; 95 % have ≤ {found.tokens.p95:.0f}",
        ),
        Tile("Coverage", share(found.coverage.mean), f"of the pixels, {where}"),
        Tile("Overlap", share(found.overlap.mean), "of the pixels, covered twice or more"),
        Tile(
            "Quarantined",
            f"{bad:,}",
            shorten(reasons, 90) or "every image could be used",
            "#quarantined" if bad else "",
        ),
        Tile(
            "Fallback",
            f"{found.fallback:,}",
            "with one full-size superpixel: no mask passed the selection"
            if found.fallback
            else "masks passed the selection in every image",
        ),
    ]


@dataclass(frozen=True, slots=True)
class Part:
    """One level in the bar of levels."""

    level: int
    x: float
    width: float
    share: float


def tokens(found: StatsReport) -> Histogram | None:
    """The histogram of superpixels per image, None for an empty cache."""
    if not found.histogram:
        return None
    text = (
        f"From {min(found.histogram)} to {counted(max(found.histogram), 'superpixel')}; the "
        f"mean is {found.tokens.mean:.1f}, the median {found.tokens.p50:g}, over "
        f"{counted(found.ok, 'image')}."
    )
    return histogram(
        found.histogram, title="Superpixels per image", unit="superpixels", counted="Images",
        text=text, mean=found.tokens.mean,
    )  # fmt: skip


def parts(found: StatsReport) -> list[Part]:
    """Levels as a bar 1280 units wide, whole first."""
    placed, x, every = [], 0.0, max(1, sum(found.levels.values()))
    for level in (WHOLE, PART, SUB_PART):
        share_of = found.levels[LEVELS[level]] / every
        if share_of:
            placed.append(
                Part(level, round(x, 1), round(max(0.0, share_of * 1280 - 4), 1), share_of)
            )
        x += share_of * 1280
    return placed


def facts(plan: Plan) -> list[tuple[str, str]]:
    """Provenance of the cache as readable (name, value) pairs."""
    recipe = plan.recipe
    return [
        ("Split", plan.split or "not named"),
        ("Superpixels", _source(recipe.superpixels)),
        ("Features", _features(recipe.features)),
        ("Patch grid", f"{plan.grid[0]} × {plan.grid[1]}, {counted(plan.channels, 'channel')}"),
        ("SAM embedding", _sam(recipe)),
    ]


def libraries(recipe: Recipe) -> list[tuple[str, str]]:
    """Versions of the packages that affect bits, by name."""
    return sorted(recipe.libraries.items())


def steps(found: StatsReport) -> list[tuple[str, str]]:
    """Masks left after each selection step, mean per image, most first: a step only removes."""
    ordered = sorted(found.survivors.items(), key=lambda step: -step[1])
    return [(shorten(name), f"{left / max(1, found.ok):,.1f}") for name, left in ordered]


def notices(found: StatsReport, recipe: Recipe, photographs: bool) -> list[str]:
    """Warnings that a reader needs before trusting the page."""
    lines = []
    if recipe.superpixels.prompts_sam and recipe.superpixels.weights.kind == "random":
        lines.append(
            "These superpixels come from random weights: they test the code and say nothing "
            "about the method."
        )
    if found.missing:
        lines.append(
            f"This cache is not complete: {found.missing:,} of "
            f"{counted(found.images, 'image', 'are')} missing. Re-run the same svp precompute to resume."
        )
    if not photographs:
        lines.append("The photographs are not available here: superpixels are shown without them.")
    return lines


def _source(config: SuperpixelConfig) -> str:
    name = SOURCES.get(config.source, f"plug-in {config.source}")
    if config.made:
        return f"{name}, {shorten(config.made, 40)}"
    if config.source == "slic":
        slic = config.slic
        return f"{name}, {counted(slic.n_segments, 'segment')}, compactness {slic.compactness:g}"
    grid = config.grid
    points = f"{grid.points_per_side} × {grid.points_per_side} points"
    crops = f", {counted(grid.crop_n_layers, 'crop layer')}" if grid.crop_n_layers else ""
    weights = shorten(str(config.weights), 30)
    toy = ", made for synthetic images" if config.weights.kind == "shipped" else ""
    return (
        f"{name} {config.model} ({weights} weights{toy}), preset {config.preset}: {points}{crops}, "
        f"{config.mode} mode"
    )


def _sam(recipe: Recipe) -> str:
    return f"stored as {recipe.sam_stored}" if recipe.store_sam_embeddings else "not stored"


def _features(config: FeatureConfig) -> str:
    weights = shorten(str(config.weights), 30)
    return (
        f"{config.encoder} ({weights} weights), {VIEWS[config.view]} to {config.size} px, "
        f"stored as {config.stored}"
    )
