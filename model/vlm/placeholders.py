"""Placeholders of images in a processor's output: as many as there are tokens."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...pipeline.display import counted
from ...pipeline.errors import DataError

# What has one entry per position of the text, and what fills its padding; None: the padding id.
ALONG_TEXT = {"input_ids": None, "attention_mask": 0, "labels": -100}


def group_starts(ids: Tensor, image_id: int, before: Sequence[int]) -> list[list[tuple[int, int]]]:
    """Per row of `ids` (B,T), where each image's placeholders start and how many there are.

    before  placeholders of each image as the processor wrote them, in the order of the batch; a
            text with one placeholder per image is taken too. Raises DataError for other numbers.
    """
    places = [row.nonzero().flatten().tolist() for row in ids == image_id]
    total = sum(map(len, places))
    if total == len(before):
        before = [1] * len(before)
    if total != sum(before):
        raise DataError(
            f"the text has {counted(total, 'image placeholder')} where "
            f"{counted(len(before), 'image')} of {', '.join(map(str, before))} patches are given: "
            "give the output of the model's own processor for these images"
        )
    sizes, groups = iter(before), []
    for row in places:
        found, at = [], 0
        while at < len(row):
            size = next(sizes)
            if row[at + size - 1 : at + size] != [row[at] + size - 1]:
                raise DataError("the placeholders of an image are not one beside the other")
            found.append((row[at], size))
            at += size
        groups.append(found)
    return groups


def resize_groups(
    inputs: Mapping[str, Any],
    groups: Sequence[Sequence[tuple[int, int]]],
    after: Iterator[int],
    padding_id: int,
) -> dict[str, Tensor]:
    """The `ALONG_TEXT` entries of `inputs` with `after` placeholders for each image.

    Rows lose their padding and get it again, on the side on which they had it.
    """
    ids = inputs["input_ids"]
    real = inputs.get("attention_mask")
    real = torch.ones_like(ids) if real is None else real
    left = bool((real[:, 0] == 0).any())
    repeats = []
    for row, groups_of_row in zip(real, groups, strict=True):
        times = (row != 0).long()
        for start, size in groups_of_row:
            times[start : start + size] = 0
            times[start] = next(after)
        repeats.append(times)
    longest = max(int(times.sum()) for times in repeats)
    given = {name: inputs.get(name) for name in ALONG_TEXT} | {"attention_mask": real}
    made = {}
    for name, fill in ALONG_TEXT.items():
        if (value := given[name]) is None:
            continue
        out = value.new_full((len(value), longest), padding_id if fill is None else fill)
        for row, entries, times in zip(out, value, repeats, strict=True):
            new = entries.repeat_interleave(times)
            at = longest - len(new) if left else 0
            row[at : at + len(new)] = new
        made[name] = out
    return made
