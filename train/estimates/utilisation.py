"""Model FLOPs of training steps beside the peak of a GPU: what a run's log and trackers call MFU."""

from collections.abc import Sequence
from typing import Any

import torch

from .flops import layers_train, llm_flops, matrices, peak_flops


class Utilisation:
    """Counts the language model's operations in training, by the formula of `flops`.

    peak  FLOP/s of one device in the dtype of the arithmetic
    """

    def __init__(self, peak: float) -> None:
        self.peak = peak

    def enter(self, lm: Any) -> None:
        """A stage begins that trains `lm` as it is now, its weights not yet split over ranks."""
        self._lm, self._matrices, self._whole = lm, matrices(lm), layers_train(lm)

    def flops(self, lengths: Sequence[int], answers: int) -> float:
        """Of sequences of these lengths, forward and backward; `answers` states reach the vocabulary."""
        counted, whole = self._matrices, self._whole
        return llm_flops(self._lm, lengths, answers, training=True, counted=counted, whole=whole)


def utilisation_of(device: torch.device, dtype: str) -> Utilisation | None:
    """None for a device whose data sheet is not listed, and for other arithmetic than bfloat16."""
    if device.type != "cuda" or dtype != "bfloat16":
        return None
    peak = peak_flops(torch.cuda.get_device_name(device))
    return None if peak is None else Utilisation(peak)
