"""Fig. 6, 11 and 12: answers of two runs to the same sentences, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from ...pipeline.display import counted, quote, shorten, show
from ...pipeline.errors import ConfigError, DataError, MissingError
from ..evaluation.paper_numbers import COLUMNS, TABLES, is_published_split
from ..evaluation.results import Header, Results, Row, read_header, read_results
from ..evaluation.word_classes import PLAIN, named_classes
from ..recipe import TrainRecipe, parse_train_recipe
from ..trainer.checkpoint import Checkpoint
from ..trainer.resume import named_checkpoint
from . import canvas
from .canvas import Picture
from .inputs import Material, as_mask, one_per_image

EACH = 2  # sentences shown of a class of words
LARGE = 0.25  # change of IoU from which an answer counts as improved or degraded
KEYS = ("protocol", "generate")  # of a header: what must be asked alike
Pair = tuple[Row, Row]


@dataclass(frozen=True, slots=True)
class Look:
    """One aspect in which two runs are compared.

    sides    names of the poorer and the richer side
    swap     RUN is the poorer side
    classes  of words, whose sentences are shown
    rows     of the paper's Table 3: the poorer and the richer side
    """

    name: str
    title: str
    paper: str
    sides: tuple[str, str]
    swap: bool
    classes: tuple[str, ...]
    rows: tuple[str, str] | None


@dataclass(frozen=True)
class Other:
    """Another run: its recipe, what it is compared in, and its answers beside RUN's.

    pairs  (RUN's row, its row) of every sentence that both answered, in RUN's order
    """

    path: Path
    recipe: TrainRecipe
    looks: tuple[Look, ...]
    pairs: tuple[Pair, ...]


def open_other(path: Path, own: TrainRecipe, results: Results) -> Other:
    """A run whose newest results are of the same split and protocol.

    Raises MissingError (no run, no such results), ConfigError (nothing to compare), DataError (other
    photographs or targets), WeightsError.
    """
    checkpoint = named_checkpoint(path)
    recipe = parse_train_recipe(dict(checkpoint.state.recipe), str(checkpoint.path))
    looks = looks_of(own, recipe)
    if not looks:
        raise ConfigError(
            f"--against {show(str(path), 300)}: both runs have the encoder "
            f"{own.model.vision.encoder} and both or neither have SSPE: name a run without SSPE "
            "(sspe_variant=none) for Fig. 6, or one of another encoder for Fig. 11 and 12"
        )
    theirs = _results(path, checkpoint, results.header)
    return Other(path, recipe, looks, pairs_of(results, theirs, path))


def looks_of(own: TrainRecipe, other: TrainRecipe) -> tuple[Look, ...]:
    """Aspects that the paper draws in which the two differ: SSPE, the encoder, or both."""
    found = []
    ours, theirs = _sspe(own), _sspe(other)
    if "" not in (ours, theirs) and (ours == "none") != (theirs == "none"):
        look = Look(
            name="sspe",
            title="Without and with SSPE",
            paper="Fig. 6",
            sides=("without SSPE", "with SSPE"),
            swap=ours == "none",
            classes=("relation", "size", "position"),
            rows=("Baseline + DINOv2", "Baseline + DINOv2 + SSPE"),
        )
        found.append(look)
    mine, its = own.model.vision.encoder, other.model.vision.encoder
    if mine != its:
        swap = mine.startswith("clip")
        poorer, richer = (mine, its) if swap else (its, mine)
        both = poorer.startswith("clip") and richer.startswith("dinov2")
        look = Look(
            name="encoders",
            title=f"{poorer} and {richer}",
            paper="Fig. 11 and 12",
            sides=(poorer, richer),
            swap=swap,
            classes=("attribute", PLAIN),
            rows=("Baseline", "Baseline + DINOv2") if both else None,
        )
        found.append(look)
    return tuple(found)


def pairs_of(ours: Results, theirs: Results, path: Path) -> tuple[Pair, ...]:
    """Rows of the sentences that both answered. Raises DataError."""
    known = {row.key: row for row in theirs.rows if row.repeat == 0}
    pairs = [(row, known[row.key]) for row in ours.rows if row.key in known]
    where = f"--against {show(str(path), 300)}"
    for mine, its in pairs:
        size = ("text", "height", "width", "target")
        if any(getattr(mine, name) != getattr(its, name) for name in size):
            raise DataError(
                f"{where}: sentence {mine.sent_id} of image {mine.image_id} is {quote(mine.text)} of "
                f"{mine.target} pixels in RUN's results and {quote(its.text)} of {its.target} there: "
                "evaluate both runs on the same data"
            )
    if not pairs:
        raise DataError(
            f"{where}: its results and RUN's have no sentence in common: evaluate both on the same "
            "images with `svp eval --checkpoint RUN`"
        )
    return tuple(pairs)


def against(made: Material, other: Other) -> list[Picture]:
    """A picture of each thing that the two are compared in."""
    return [_picture(made, other, look) for look in other.looks]


def chosen(look: Look, pairs: Sequence[Pair]) -> list[tuple[str, Pair]]:
    """(why, (poorer, richer)): the largest gains of each class, then the largest loss of all.

    An image is shown once.
    """
    sided = {id(poor): (poor, rich) for poor, rich in _sided(look, pairs)}
    ranked = sorted(sided.values(), key=_loss)
    found: list[tuple[str, Pair]] = []
    seen: set[int] = set()
    for word in look.classes:
        gained = [
            poor for poor, rich in ranked
            if _in(poor, word) and rich.iou > poor.iou and poor.image_id not in seen
        ]  # fmt: skip
        for poor in one_per_image(gained, EACH):
            found.append((word, sided[id(poor)]))
            seen.add(poor.image_id)
    lost = [pair for pair in ranked if _loss(pair) > 0 and pair[0].image_id not in seen]
    return found + [("largest loss", pair) for pair in lost[-1:]]


def words(look: Look, pairs: Sequence[Pair], header: Header) -> str:
    """Caption: gIoU by class, improved and degraded answers, share outside the target."""
    sided = _sided(look, pairs)
    told = []
    for name in ("all", *named_classes(pair[0].classes for pair in sided), PLAIN):
        inside = [pair for pair in sided if name == "all" or _in(pair[0], name)]
        if inside:
            poor, rich = (100 * mean(pair[k].iou for pair in inside) for k in (0, 1))
            told.append(f"{name} {poor:.1f} / {rich:.1f} ({len(inside):,})")
    gains = [-_loss(pair) for pair in sided]
    mended, lost = sum(g > LARGE for g in gains), sum(-g > LARGE for g in gains)
    outside = " / ".join(f"{100 * mean(_outside(pair[k]) for pair in sided):.0f} %" for k in (0, 1))
    text = (
        f"Left the answers {look.sides[0]}, right {look.sides[1]}, for the sentences that gain most "
        f"of each class and the one that loses most. gIoU {look.sides[0]} / {look.sides[1]} "
        f"(sentences): {', '.join(told)}. IoU rises by more than {LARGE} for {mended:,} of them and "
        f"falls by as much for {lost:,}; of an answer, {outside} lie outside the target."
    )
    return f"{text} {paper}" if (paper := _published(look, header)) else text


def _picture(made: Material, other: Other, look: Look) -> Picture:
    text = words(look, other.pairs, made.results.header) + _also(made.trained.recipe, other, look)
    shown = chosen(look, other.pairs)
    if not shown:
        text = f"Both runs answer every sentence alike. {text}"
        return Picture(look.name, look.title, look.paper, text)
    figure, axes = canvas.grid(len(shown), 4)
    for (why, sides), line in zip(shown, axes, strict=True):
        row, photo, target = sides[0], made.photo(sides[0]), made.target(sides[0])
        line[0].imshow(photo)
        canvas.outline(line[0], target, canvas.TARGET)
        canvas.label(line[0], shorten(row.text, 60))
        line[1].imshow(canvas.mosaic(photo, made.superpixels(row)))
        canvas.label(line[1], f"{why}; {counted(sides[not look.swap].tokens, 'token')}")
        for axis, name, answer in zip(line[2:], look.sides, sides, strict=True):
            axis.imshow(canvas.veil(photo, as_mask(answer.mask), canvas.PREDICTED))
            canvas.outline(axis, target, canvas.TARGET)
            canvas.label(axis, f"{name}: IoU {100 * answer.iou:.0f} %")
    return Picture(look.name, look.title, look.paper, text, canvas.png(figure))


def _sided(look: Look, pairs: Sequence[Pair]) -> list[Pair]:
    """(poorer, richer) of pairs (RUN's, the other's)."""
    return [pair if look.swap else (pair[1], pair[0]) for pair in pairs]


def _loss(pair: Pair) -> float:
    return pair[0].iou - pair[1].iou


def _in(row: Row, word: str) -> bool:
    return word in row.classes if word != PLAIN else not row.classes


def _outside(row: Row) -> float:
    """Share of an answer's pixels that are not the target's; 0 of an empty answer."""
    pixels = row.union - row.target + row.intersection
    return (pixels - row.intersection) / pixels if pixels else 0.0


def _sspe(recipe: TrainRecipe) -> str:
    """`sspe_variant` of an SVP or of a fusion of them, "" for another projector."""
    projector = recipe.model.projector
    options: Any = projector.options
    if projector.name == "fusion":
        options = options.get("svp") or {}
    elif projector.name != "svp":
        return ""
    return str(options.get("sspe_variant", "mask_att"))


def _also(own: TrainRecipe, other: Other, look: Look) -> str:
    """Other differences between the models, which would confound the comparison."""
    mine, its = (_flat(recipe.model.model_dump(mode="json")) for recipe in (own, other.recipe))
    ours = {"sspe": "sspe_variant", "encoders": "vision.encoder"}[look.name]
    names = [n for n in sorted(mine.keys() | its.keys()) if mine.get(n) != its.get(n)]
    rest = [name for name in names if not name.endswith(ours)]
    if own.stages != other.recipe.stages:
        rest.append("stages")
    return f" The runs also differ in {shorten(', '.join(rest), 200)}." if rest else ""


def _flat(values: dict[str, Any], at: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = _flat(value, f"{at}{name}.") if isinstance(value, dict) else {f"{at}{name}": value}
        found |= inner
    return found


def _published(look: Look, header: Header) -> str:
    """The paper's numbers of the same two rows, where the split is the paper's; else ""."""
    if look.rows is None or len(header.splits) != 1:
        return ""
    (split,) = header.splits
    if not is_published_split(split.dataset, split.split_by, split.split, split.images):
        return ""
    column = COLUMNS.index((split.dataset, split.split))
    values = [TABLES["3"].row(name).values[column] for name in look.rows]
    told = " / ".join(f"{name} {value}" for name, value in zip(look.rows, values, strict=True))
    return f"The paper's gIoU of this split, Table 3: {told}."


def _results(path: Path, checkpoint: Checkpoint, wanted: Header) -> Results:
    """Newest results of this checkpoint for the same split and protocol. Raises MissingError."""
    folder = checkpoint.path.parents[1] / "eval"
    split = wanted.splits[0].split
    for file in sorted(folder.glob("*.jsonl"), key=lambda p: p.stat().st_mtime_ns, reverse=True):
        header = read_header(file)
        same = all(getattr(header, name) == getattr(wanted, name) for name in KEYS)
        mine = header.digests.get("checkpoint") == checkpoint.digest
        if same and mine and header.splits[0].split == split:
            return read_results(file)
    raise MissingError(
        f"--against {show(str(path), 300)}: no results of split {show(split)} of its checkpoint: make "
        f"them with `svp eval --checkpoint {show(str(path), 300)} --split {show(split)} "
        f"--protocol {wanted.protocol}`{', `svp eval --generate`' * wanted.generate}"
    )
