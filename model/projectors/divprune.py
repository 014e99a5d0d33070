"""DivPrune: keep the patches whose least distance to each other is largest (arXiv 2503.02175).

Max-min diversity, greedily: k-centre by cosine distance, begun with the patch that is farthest from
its nearest other. The original selects among the projector's outputs; here among the encoder's
features, so that the choice does not move while the projector trains.

Source: the paper (CVPR 2025) and vbdi/divprune 799e2d9, LLaVA/llava/model/llava_arch.py 147-175, as
a description: the code is CC-BY-NC-4.0 and none was taken. EVTP-IVS (arXiv 2508.11886) uses the same
rule with positions among the features, for segmentation.
"""

import torch
from torch import Tensor

from .kept_patches import KeptPatches
from .similarity import ONE, similarities


class DivPrune(KeptPatches):
    """Of equally far patches the first in raster order; fewer `tokens` keep a subset of more."""

    def chosen(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B,P,C) -> (B,tokens), in the order of selection."""
        alike = similarities(patches)
        rows = torch.arange(len(alike), device=alike.device)
        itself = torch.eye(alike.shape[1], dtype=torch.bool, device=alike.device)
        place = alike.masked_fill(itself, -2 * ONE).amax(2).argmin(1)
        taken, nearest = [place], alike[rows, place]
        for _ in range(self.tokens - 1):
            nearest = nearest.scatter(1, place[:, None], 4 * ONE)  # not again
            place = nearest.argmin(1)
            taken.append(place)
            nearest = torch.maximum(nearest, alike[rows, place])
        return torch.stack(taken, 1)
