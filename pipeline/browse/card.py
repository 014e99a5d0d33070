"""Template data of one image's card."""

from dataclasses import dataclass

from ..cache.plan import Plan, PlanImage
from ..display import counted, share, shorten
from ..records import PART, SUB_PART, WHOLE, Superpixels
from .overlay import Overlay, Shape, draw

LEVELS = {WHOLE: "whole", PART: "part", SUB_PART: "sub-part"}
OFF = ("over", "grid")  # layers that start switched off


@dataclass(frozen=True, slots=True)
class Picture:
    """Image file of a card, relative to the page; `size` is (width, height)."""

    large: str
    small: str
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Card:
    """Everything the template prints about one image. All text is printable but not yet HTML."""

    anchor: int  # place on the page: ids may be negative or too long for a fragment
    image_id: int
    name: str
    height: int
    width: int
    fallback: bool
    overlay: Overlay
    photo: Picture | None
    missing: str  # why there is no photograph, or ""
    grid: tuple[int, int]  # patches of the encoder, rows and columns
    squashed: bool  # whether the encoder's view is the whole image, so that the grid can be drawn
    scored: bool  # whether score and stability are SAM's

    @property
    def picture(self) -> str:
        """Address of the photograph, or ""."""
        return self.photo.large if self.photo else ""

    @property
    def small(self) -> str:
        """Address of the small photograph, or ""."""
        return self.photo.small if self.photo else ""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the photograph on the page."""
        return self.photo.size if self.photo else (0, 0)

    @property
    def count(self) -> str:
        """Number of superpixels, as text."""
        return counted(len(self.overlay.shapes), "superpixel")

    @property
    def tall(self) -> bool:
        """Whether the image is so tall that it should not fill the width."""
        return self.height > 1.1 * self.width

    @property
    def painted(self) -> list[Shape]:
        """Shapes from large to small, so that a small one is never hidden under a large one."""
        return sorted(self.overlay.shapes, key=lambda shape: -shape.area)

    @property
    def layers(self) -> list[tuple[str, str, str]]:
        """(key, label, figure) of each layer that can be switched; those of `OFF` start switched off."""
        counts = {level: 0 for level in LEVELS} | _count(self.overlay)
        return [
            *((str(level), LEVELS[level], str(counts[level])) for level in LEVELS),
            ("bare", "uncovered", share(self.overlay.uncovered_share)),
            ("over", "overlap", share(self.overlay.overlap_share)),
            ("photo", "photo", ""),
            *([("grid", "patches", f"{self.patches:,}")] if self.squashed else []),
        ]

    @property
    def patches(self) -> int:
        """Visual tokens of a projector that keeps every patch."""
        return self.grid[0] * self.grid[1]

    @property
    def fewer(self) -> str:
        """Visual tokens beside patches, and the share that is saved."""
        left = len(self.overlay.shapes) / self.patches
        tokens = counted(len(self.overlay.shapes), "visual token")
        if left >= 1:
            return f"{tokens} for {self.patches:,} patches"
        return f"{tokens} for {self.patches:,} patches: {share(1 - left)} fewer"

    @property
    def grid_lines(self) -> str:
        """Borders of the encoder's patches as path data."""
        (rows, columns), (width, height) = self.grid, self.overlay.box
        across = "".join(f"M0 {height * k / rows:.0f}h{width}" for k in range(1, rows))
        return across + "".join(f"M{width * k / columns:.0f} 0v{height}" for k in range(1, columns))

    @property
    def text(self) -> str:
        """One sentence that says what the picture shows."""
        counts = _count(self.overlay)
        parts = ", ".join(f"{counts[level]} {LEVELS[level]}" for level in LEVELS if level in counts)
        bare, over = share(self.overlay.uncovered_share), share(self.overlay.overlap_share)
        return (
            f"{self.count} ({parts}); "
            f"{bare} of the picture uncovered, {over} covered more than once."
        )

    def readout(self, shape: Shape) -> str:
        """One line about one superpixel."""
        text = (
            f"Superpixel {shape.number}: {LEVELS[shape.level]}, {shape.area:,} px "
            f"({share(shape.share)})"
        )
        if not self.scored:
            return text
        return f"{text}, score {shape.score:.3f}, stability {shape.stability:.3f}"


def make_card(
    anchor: int,
    plan: Plan,
    image: PlanImage,
    found: Superpixels,
    photo: Picture | None,
    missing: str,
) -> Card:
    """The card of one image of a plan. DataError if a stored RLE is malformed."""
    return Card(
        anchor=anchor,
        image_id=image.image_id,
        name=shorten(image.path.rpartition("/")[2] or image.path, 60),
        height=found.height,
        width=found.width,
        fallback=found.fallback,
        overlay=draw(found),
        photo=photo,
        missing=missing,
        grid=plan.grid,
        squashed=plan.recipe.features.view == "squash",
        scored=plan.recipe.superpixels.prompts_sam,
    )


def _count(overlay: Overlay) -> dict[int, int]:
    levels = [shape.level for shape in overlay.shapes]
    return {level: levels.count(level) for level in LEVELS if level in levels}
