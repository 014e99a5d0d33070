"""What the columns of a table must be for every later read to stay inside them.

A checksum says that a file is the one that was written, not that it was written by us: a table may
come with a copied folder. One pass over whole columns replaces a check at every read.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

ENTRY = ("dataset", "image_id", "cache", "row", "height", "width")
SENTENCE = ("sent_id", "ref_id", "ann_id", "target")
TARGET = ("part", "offset", "crc")
NAMES = frozenset({*ENTRY, *SENTENCE, *TARGET, "first", "text_end", "text"})
MAX_SIDE = 65_535


def column_fault(
    columns: Mapping[str, NDArray[np.generic]], datasets: int, caches: int, parts: int
) -> str:
    """What is wrong with the columns of a table of so many data sets, caches and parts, or ''."""
    if columns.keys() != NAMES:
        return f"columns {sorted(columns.keys() ^ NAMES)}"
    kinds = {name: np.uint8 if name == "text" else np.int64 for name in NAMES}
    if odd := sorted(n for n, c in columns.items() if c.ndim != 1 or c.dtype != kinds[n]):
        return f"column {odd[0]} is {columns[odd[0]].dtype}{list(columns[odd[0]].shape)}"
    lengths = [len(columns[names[0]]) for names in (ENTRY, SENTENCE, TARGET)]
    for names, length in zip((ENTRY, SENTENCE, TARGET), lengths, strict=True):
        if odd := [name for name in names if len(columns[name]) != length]:
            return f"column {odd[0]} has {len(columns[odd[0]])} values, expected {length}"
    entries, sentences, targets = lengths
    if not _splits(columns["first"], entries, sentences, least=1):
        return "column first does not share the sentences out among the entries"
    if not _splits(columns["text_end"], sentences, len(columns["text"]), least=0):
        return "column text_end does not cut the text"
    if fault := _text_fault(columns):
        return fault
    limits = {
        "dataset": (0, datasets), "cache": (0, caches), "target": (0, targets), "part": (0, parts),
        "height": (1, MAX_SIDE + 1), "width": (1, MAX_SIDE + 1), "crc": (0, 1 << 32),
        "offset": (0, 1 << 62), "row": (0, 1 << 62), "image_id": (0, None),
    }  # fmt: skip
    for name, (low, high) in limits.items():
        values = columns[name].astype(np.int64, copy=False)
        if len(values) and (values.min() < low or (high is not None and values.max() >= high)):
            return f"column {name} has values outside {low}..{'' if high is None else high - 1}"
    return ""


def _splits(ends: NDArray[np.generic], pieces: int, whole: int, least: int) -> bool:
    """Whether `ends` cuts 0..whole into so many pieces of at least `least`."""
    values = ends.astype(np.int64, copy=False)
    fits = len(values) == pieces + 1 and values[0] == 0 and values[-1] == whole
    # Compared, not subtracted: differences of hostile numbers may wrap around.
    return bool(fits and np.all(values[1:] >= values[:-1]) and np.all(np.diff(values) >= least))


def _text_fault(columns: Mapping[str, NDArray[np.generic]]) -> str:
    text = columns["text"].astype(np.uint8, copy=False)
    try:
        text.tobytes().decode()
    except UnicodeDecodeError:
        return "the text is not UTF-8"
    cuts = columns["text_end"].astype(np.int64, copy=False)
    inside = text[cuts[cuts < len(text)]]
    return "a sentence is cut inside a character" if np.any((inside & 0xC0) == 0x80) else ""
