"""Masks of what `svp predict` reports."""

import numpy as np
from numpy.typing import NDArray

from svp.pipeline.masks.rle import decode
from svp.pipeline.records import Rle
from svp.train.runs.predict import PredictReport


def masks(report: PredictReport) -> list[NDArray[np.bool_]]:
    """(H,W) of each expression of each photograph."""
    found = []
    for photo in report.photos:
        for prediction in photo.record["predictions"]:
            mask = prediction["mask"]
            found.append(decode(Rle(*mask["size"], mask["counts"].encode())))
    return found
