"""Token answers: the visual tokens that an expression means, by products of a query with each.

Where tokens are superpixels, the union of those that are meant is a mask already: SAM's decoder
refines it, or is left out. Any projector may have the head, for it tells a language model that has
seen no image which token an expression means. Two queries are trained beside the mask losses, on the share of each
token's piece that lies in the target: of the state that masks are made of, and of the question's mean
word embedding, which chooses before the language model has read anything (`inference.ask`).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..batch import IGNORE, Batch
from ..mixed_precision import weights_cast

WIDTH = 64
START = -1.0  # most superpixels are in no target


class TokenAnswer(nn.Module):
    """Queries (S,D) and tokens (B,N,D) -> scores; a superpixel is meant where its score is above 0.

    Both are normalised first, so that their sizes do not matter.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.state, self.words = nn.Linear(dim, WIDTH), nn.Linear(dim, WIDTH)
        self.key = nn.Linear(dim, WIDTH, bias=False)
        self.bias = nn.Parameter(torch.full((), START))

    def forward(
        self, queries: Tensor, tokens: Tensor, owner: Tensor, *, words: bool = False
    ) -> Tensor:
        """Logits (S,N) float32 of each query and each token of its image `owner` (S,) int64.

        words  the queries are means of embedded words, not states
        """
        with weights_cast(self):
            kind, ask = self.key.weight.dtype, self.words if words else self.state
            width = tokens.shape[-1:]
            q = ask(F.layer_norm(queries.float(), width).to(kind))
            k = self.key(F.layer_norm(tokens.float(), width).to(kind))
            found = torch.einsum("sc,snc->sn", q, k[owner]).float() / math.sqrt(WIDTH)
            return found + self.bias.float()


def question_words(batch: Batch, words: Tensor) -> Tensor:
    """(S,D) float32, the mean of the embedded ids `words` (B,T,D) that ask for each mask.

    That is what stands between the answer before, or the image, and its own answer: the words of the
    wording, alike for all, and those of the expression.
    """
    row, col = batch.seg_row, batch.seg_col
    said = batch.labels != IGNORE
    begins = said & ~F.pad(said, (1, 0))[:, :-1]
    turn = begins.cumsum(dim=1)  # of each id the answers that have begun
    place = torch.arange(batch.ids.shape[1], device=row.device)
    asked = ~said[row] & (turn[row] == turn[row, col][:, None] - 1)
    asked &= (place > batch.slot[row][:, None]) & (place < col[:, None])
    summed = (words.float()[row] * asked[..., None]).sum(dim=1)
    return summed / asked.sum(dim=1, keepdim=True).clamp_min(1)


def shares(batch: Batch, pieces: Tensor, targets: Tensor) -> Tensor:
    """(S,K) float32 share of each token's piece of its image that lies in each target (S,H,W) bool.

    pieces  (B,K,h,w) of a grid that shows the whole photograph, as that of an encoder with view
            squash does
    """
    cells, found = pieces.flatten(2).float(), []
    for image, target in zip(batch.layout.masks.images, targets, strict=True):
        height, width = batch.sizes[image]
        pixels = target[None, :height, :width].float()
        grid = F.adaptive_avg_pool2d(pixels, (pieces.shape[2], pieces.shape[3])).flatten()
        found.append(cells[image] @ grid / cells[image].sum(dim=1).clamp_min(1))
    return torch.stack(found)


def none_meant(scores: Tensor) -> Tensor:
    """Chance (S,) that no token is meant, by scores (S,N), as if one said nothing of another."""
    return (-F.softplus(scores)).sum(dim=1).exp()


def answer_loss(logits: Tensor, share: Tensor, valid: Tensor) -> Tensor:
    """Sum over S masks of the mean BCE over their real superpixels: (S,N), (S,N) in [0,1], (S,N) bool."""
    each = F.binary_cross_entropy_with_logits(logits, share, reduction="none") * valid
    return (each.sum(dim=1) / valid.sum(dim=1)).sum()
