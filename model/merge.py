"""Insert a variable number of visual tokens into the text, in place of <image>.

With <image> at text index s and n visual tokens, text index p lands at p if p < s, else p - 1 + n
(n = 576 gives GLaMM's p + 575). Padding stays on the right, *after* merging, so causal attention
alone keeps it away from every real position and no attention mask is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Merged:
    """A batch of merged sequences.

    embeds   (B,L,D), zero on padding
    lengths  (B,) real positions: text - 1 + visual tokens
    slot     (B,) where the visual tokens start
    shift    (B,) by how much the text after <image> moves
    positions  (B,L) int64 of the language model's position embedding; None: 0, 1, 2, ...
    """

    embeds: Tensor
    lengths: Tensor
    slot: Tensor
    shift: Tensor
    positions: Tensor | None = None

    def index(self, row: Tensor, col: Tensor) -> Tensor:
        """Merged index of text index `col` of image `row`, int64; not for <image> itself."""
        return torch.where(col < self.slot[row], col, col + self.shift[row])


def merge(
    text: Tensor,
    lengths: Tensor,
    slot: Tensor,
    tokens: Tensor,
    valid: Tensor,
    *,
    longest: int | None = None,
) -> Merged:
    """Put `tokens` into `text` at `slot`.

    text (B,T,D), lengths (B,), slot (B,), tokens (B,K,D), valid (B,K) bool with the real tokens
    first. Tokens are cast to the text's dtype. longest: L, if the host knows it; else it is read
    from the device.
    """
    visual = valid.sum(1)
    shift = visual - 1
    total = lengths + shift
    size = int(total.max()) if longest is None else longest
    place = torch.arange(size, device=text.device)[None]  # (1,L)
    start, count = slot[:, None], visual[:, None]
    within = (place >= start) & (place < start + count)
    from_text = torch.where(place < start, place, place + 1 - count).clamp(0, text.shape[1] - 1)
    from_tokens = text.shape[1] + (place - start).clamp(0, tokens.shape[1] - 1)
    pool = torch.cat([text, tokens.to(text.dtype)], 1)  # (B,T+K,D)
    index = torch.where(within, from_tokens, from_text)
    embeds = pool.gather(1, index[..., None].expand(-1, -1, pool.shape[2]))
    real = place < total[:, None]
    return Merged(embeds * real[..., None], total, slot, shift)


def original_positions(merged: Merged, places: Sequence[int], span: int) -> Tensor:
    """(B,L) int64 positions if the visual tokens keep their `places` among `span`, which all stand
    before the text that follows."""
    device, count = merged.embeds.device, len(places)
    index = torch.arange(merged.embeds.shape[1], device=device)[None] - merged.slot[:, None]
    own = torch.tensor(places, device=device)[index.clamp(0, count - 1)]
    after = torch.where(index < count, own, index + span - count)
    return torch.where(index < 0, index, after) + merged.slot[:, None]
