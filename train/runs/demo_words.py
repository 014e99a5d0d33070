"""Sentences and tables of `svp demo`, in Markdown."""

from collections.abc import Mapping, Sequence

import numpy as np

from ...pipeline.display import counted
from ...pipeline.masks import rle
from ...pipeline.records import Superpixels
from .answer import Answer
from .session import Attended, ImageSession

MOST = 6  # superpixels in the table of attention
STEPS = {
    "encode": "encode the photograph",
    "read": "read its tokens",
    "answer": "answer",
}


def facts(session: ImageSession, answer: Answer, patches: Mapping[str, float] | None = None) -> str:
    """The answer and its cost.

    patches  seconds of the language model with a token per patch, see `ImageSession.cost_with`
    """
    if answer.rejected:
        found = "There is no such thing, says the model."
    elif not answer.area:
        found = "The mask is empty."
    else:
        share = answer.area / answer.mask.size
        found = f"**{answer.area:,} pixels** ({share:.1%} of the image), score {answer.score:.2f}."
    known = patches or {}
    rows = [
        f"| {STEPS[name]}, ms | {1e3 * s:.0f} | {f'{1e3 * known[name]:.0f}' if name in known else ''} |"
        for name, s in answer.timings.items()
    ]
    lines = [
        f"## {answer.expression}",
        found,
        *([f"The model says: {answer.text}"] if answer.text else []),
        "",
        "| | this model | one token per patch |",
        "|---|---|---|",
        f"| visual tokens | {answer.tokens} | {session.patches} |",
        *rows,
        "",
        f"{_inside(answer)} Every further expression costs the answer alone.",
    ]
    return "\n".join(lines)


def _inside(answer: Answer) -> str:
    """Superpixels that lie in the mask."""
    inside = [str(k) for k, is_in in enumerate(in_mask(answer), 1) if is_in]
    return f"Superpixels in the mask: {', '.join(inside) or 'none'}."


def in_mask(answer: Answer) -> list[bool]:
    """Of each superpixel whether more than half of it lies in the mask."""
    masks = (rle.decode(one).astype(bool) for one in answer.superpixels.masks())
    return [bool((m & answer.mask).sum() * 2 > m.sum()) for m in masks]


def attention_words(attended: Attended, names: Sequence[str], inside: Sequence[bool]) -> str:
    """The most attended superpixels, in shares of the attention to the photograph."""
    shares, total = np.nan_to_num(attended.shares), max(attended.total, 1e-12)
    most = np.argsort(-shares, kind="stable")[:MOST]
    rows = [
        f"| {names[k]} | {shares[k] / total:.0%} | {'yes' if inside[k] else 'no'} |"
        for k in most
        if shares[k] > 0
    ]
    left = int(np.isnan(attended.shares).sum())
    if left:
        rows.append(
            f"| the rest, {counted(left, 'superpixel')} in one token | {attended.rest / total:.0%} | |"
        )
    said = (
        f"Of the attention of [SEG] in the last layers, {attended.total:.0%} is on the photograph and is "
        "divided so; the text has the other part. It tells where the model reads, not why it answers so."
    )
    head = [
        "## Attention of the answer",
        "| superpixel, most attended first | attention | in the mask |",
        "|---|---|---|",
    ]
    return "\n".join([*head, *rows, "", said])


def one_superpixel(found: Superpixels, name: str, attended: Attended | None = None) -> str:
    """About the superpixel that was clicked, by its name on the page."""
    k = int(name.split()[0]) - 1
    x1, y1, x2, y2 = (int(v) for v in found.box[k])
    said = (
        f"**Superpixel {name}**: {int(found.area[k]):,} pixels "
        f"({found.area[k] / (found.height * found.width):.1%}), SAM's IoU estimate "
        f"{found.predicted_iou[k]:.2f}, stability {found.stability[k]:.2f}, box x {x1}-{x2}, y {y1}-{y2}"
    )
    if attended is None:
        return said
    if np.isnan(attended.shares[k]):
        return f"{said}, part of the rest at this budget"
    return f"{said}, {attended.shares[k] / max(attended.total, 1e-12):.0%} of the attention"
