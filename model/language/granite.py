"""Granite 3.x: embeddings, residuals, attention and logits have constant factors.

That of the embeddings is applied inside the model, to visual tokens too.
"""

from typing import Any

from torch import Tensor

from .adapter import Language


def _divided(config: Any, logits: Tensor) -> Tensor:
    return logits / float(config.logits_scaling)


GRANITE = Language("granite", "Granite 3.x", logits=_divided)
