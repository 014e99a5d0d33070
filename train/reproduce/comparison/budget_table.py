"""Accuracy over the number of visual tokens: SVP beside methods that choose, merge or nest tokens.

Not a table of the paper. A method whose count is part of the training has one model per budget; one
whose count can be set afterwards (a threshold, a nested prefix) has one, evaluated at each.
"""

from collections.abc import Iterable, Mapping, Sequence

from pydantic import JsonValue

from ....model.projectors import projector_class
from ....pipeline.io.yaml_files import Override
from ..experiment import SUPERPIXELS, Experiment, Overrides, Row, projector
from ..sizes import Setting

BUDGETS = (4, 8, 16, 32, 64)
OURS, UNTOLD = "SVP", "SVP trained without budgets"
FIXED = (
    ("ToMe", "tome"),
    ("DivPrune (k-centre)", "divprune"),
    ("random patches", "random_patches"),
    ("PAYN-like", "payn"),
)
SLIC = "SVP on SLIC"


def budget_table(at: Setting, others: Sequence[str] = ()) -> Experiment:
    """`others`: projectors of the user's, each a curve of its own."""
    rows = [
        *_budgets(at),
        Row(f"{UNTOLD}: all superpixels", curve=UNTOLD),
        *_divt(at),
        *(row for name, kind in FIXED for row in _each(name, kind, BUDGETS)),
        *_windows(at),
        *_nested("MQT", "mqt", at.mqt, BUDGETS),
        *_nested("M3", "m3", {}, [side * side for side in at.m3]),
        Row("AdaTok-like: all superpixels", projector("adatok"), curve="AdaTok-like"),
        *_slic(at),
        *(row for name in others for row in _user(name)),
    ]
    notes = (
        (
            "Tokens are the mean over images; p95 and the most stand beside it. ToMe, DivPrune, random "
            "patches, PAYN-like and DeCo train one model per budget; SVP, DiVT, MQT and M3 one in all."
        ),
        (
            "AUBC: the mean of gIoU over log2(tokens) from 4 to 64, straight lines between the points, to "
            "0 at one token before the first, and the last point's gIoU after it."
        ),
    )
    return Experiment("budget", "Accuracy over visual tokens", tuple(rows), notes=notes)


def _budgets(at: Setting) -> Iterable[Row]:
    """One training with a budget drawn for each global batch; evaluated at all and at mean counts."""
    drawn = (Override("budget", "drawn"),)
    yield Row(f"{OURS}: auto", drawn, budget="auto", curve=OURS)
    for count in BUDGETS:
        if count < at.superpixels:
            asked = f"mean:{count}"
            yield Row(f"{OURS}: {asked}", drawn, superpixels=count, budget=asked, curve=OURS)


def _divt(at: Setting) -> Iterable[Row]:
    options: Mapping[str, JsonValue] = {
        **at.divt,
        "threshold": at.thresholds[len(at.thresholds) // 2][0],
    }
    for threshold, tokens in at.thresholds:
        yield Row(
            f"DiVT: threshold {threshold:g}",
            projector("divt", options),
            superpixels=tokens,
            evaluate=_set("threshold", threshold),
            curve="DiVT",
        )


def _each(name: str, kind: str, counts: Iterable[int]) -> Iterable[Row]:
    for count in counts:
        yield Row(f"{name}: {count}", projector(kind, {"tokens": count}), curve=name)


def _windows(at: Setting) -> Iterable[Row]:
    for side in (2, 3, 4, 6, 8):
        grid: JsonValue = [side, side]
        yield Row(f"DeCo: {side * side}", projector("deco", {"out_grid": grid}), curve="DeCo")


def _nested(
    name: str, kind: str, options: Mapping[str, JsonValue], counts: Iterable[int]
) -> Iterable[Row]:
    for count in counts:
        yield Row(
            f"{name}: {count}",
            projector(kind, options),
            evaluate=_set("tokens", count),
            curve=name,
        )


def _slic(at: Setting) -> Iterable[Row]:
    """`at.slic` labels are as many as SAM's superpixels on average; others in proportion."""
    for count in BUDGETS[1:]:
        labels = round(at.slic * count / at.superpixels)
        cache = (
            Override("superpixels.source", "slic"),
            Override("superpixels.slic.n_segments", labels),
        )
        yield Row(f"{SLIC}: {labels} labels", cache=cache, superpixels=count, curve=SLIC)


def _user(name: str) -> Iterable[Row]:
    """One training; evaluated at each budget if its `tokens` may be set afterwards."""
    if "tokens" in projector_class(name).adjustable:
        return _nested(name, name, {}, BUDGETS)
    return (Row(name, projector(name), curve=name, superpixels=SUPERPIXELS),)


def _set(option: str, value: JsonValue) -> Overrides:
    return (Override(f"model.projector.options.{option}", value),)
