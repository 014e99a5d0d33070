"""`svp cache browse`: write a static page of a cache's content.

Untrusted text (file names, reasons) is made safe as page_kit.py says. The folder appears by rename,
so it is whole or absent, and it can be moved.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..cache.plan import PlanImage
from ..datasets.images import read_record
from ..display import counted, shorten
from ..errors import CacheError, ImageError
from ..records import ImageRecord, Quarantined
from ..store import Place
from .card import LEVELS, OFF, Card, Picture, make_card
from .facts import facts, libraries, notices, parts, steps, tiles, tokens
from .overlay import thumbnail
from .page_kit import ASSETS, HERE, check_replaceable, write_page
from .source import CacheView, open_view

SMALL = 184  # pixels, long side of the pictures in the index
MAX_LISTED = 200  # quarantined images named on the page
LAYERS = [*((str(key), name) for key, name in LEVELS.items()), ("bare", "uncovered")]
LAYERS += [("over", "overlap"), ("photo", "photo"), ("grid", "patches")]


@dataclass(frozen=True, slots=True)
class BadImage:
    """One line of the quarantine list, printable."""

    name: str
    reason: str
    detail: str


def browse(
    cache: Place,
    out: Path,
    *,
    images_root: Path | None = None,
    limit: int = 24,
    ids: Sequence[int] | None = None,
) -> Path:
    """Write the page of the cache at `cache` into the folder `out`; returns its index.html.

    images_root  folder or address of the photographs; without it the page shows superpixels only
    limit        how many images to show, spread evenly over the cache
    ids          image ids to show instead

    An earlier page at `out` is replaced. ConfigError if `out` holds anything else or an id is not
    in the cache; MissingError, CacheError if the cache cannot be read.
    """
    check_replaceable(out)
    view = open_view(cache)
    rows = view.choose(limit, ids)

    def fill(folder: Path) -> dict[str, object]:
        return _values(
            view, [_card(view, row, n, folder, images_root) for n, row in enumerate(rows, 1)]
        )

    return write_page(out, HERE / "page.html.j2", fill, filtered=True)


def _card(view: CacheView, row: int, anchor: int, folder: Path, images_root: Path | None) -> Card:
    image = view.plan.images[row]
    photo, missing = None, ""
    if images_root is not None:
        try:
            photo = _photo(image, anchor, folder, images_root)
        except ImageError as error:
            missing = f"no photograph: {error.reason}"
        except CacheError as error:  # of the service that holds them
            raise CacheError(f"{error}; or name a folder of them with --images FOLDER") from None
    return make_card(anchor, view.plan, image, view.superpixels(row), photo, missing)


def _photo(image: PlanImage, anchor: int, folder: Path, images_root: Path) -> Picture:
    """Write both sizes of a photograph. ImageError if it cannot be read or has another size."""
    record = ImageRecord(image.image_id, image.path, image.height, image.width)
    pixels = read_record(images_root, record)
    large, size = thumbnail(pixels)
    names = f"{ASSETS}/{anchor:04d}.webp", f"{ASSETS}/{anchor:04d}-small.webp"
    (folder / names[0]).write_bytes(large)
    (folder / names[1]).write_bytes(thumbnail(pixels, SMALL)[0])
    return Picture(*names, size)


def _values(view: CacheView, cards: list[Card]) -> dict[str, object]:
    plan, found = view.plan, view.stats
    bad = [_bad(plan.images[row], item) for row, item in sorted(view.bad.items())]
    every = len(cards) == found.ok
    shown = (
        f"All {counted(found.ok, 'image')}"
        if every
        else f"{len(cards):,} of {counted(found.ok, 'image')}"
    )
    return {
        "title": shorten(plan.split or plan.id[:12], 60),
        "cache_id": plan.id,
        "notices": notices(found, plan.recipe, any(card.photo for card in cards) or not cards),
        "tiles": tiles(found),
        "facts": [(shorten(name), shorten(value)) for name, value in facts(plan)],
        "digests": [
            (shorten(name), shorten(value)) for name, value in sorted(plan.digests.items())
        ],
        "libraries": [(shorten(name), shorten(value)) for name, value in libraries(plan.recipe)],
        "plot": tokens(found),
        "parts": parts(found),
        "measured": f"{found.sampled:,}",
        "steps": steps(found),
        "quarantined": bad[:MAX_LISTED],
        "unlisted": max(0, len(bad) - MAX_LISTED),
        "reasons": counted(len(bad), "image"),
        "shown": shown if cards else "No pictures to show",
        "cards": cards,
        "all_layers": LAYERS,
        "off": OFF,
        "level_names": LEVELS,
    }


def _bad(image: PlanImage, item: Quarantined) -> BadImage:
    return BadImage(shorten(image.path, 80), shorten(item.reason), shorten(item.detail, 300))
