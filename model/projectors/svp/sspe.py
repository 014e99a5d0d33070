"""SSPE: encode the shape and position of a superpixel as one vector (paper, Sec. 4.2).

Learnable queries attend to the mask: its two-row embedding gives keys and values, sine positions
are added to the keys. Every superpixel is encoded alone, from its mask only, so all superpixels of
a batch stand in one axis and nothing is padded. [paper: d=128, 8 heads, 3 blocks]
"""

from torch import Tensor, nn

from ...blocks import KEY, VALUE, Attention, BlockStack, Crossings, Look
from .mask_attention import Masks, mask_looks
from .position import sine_axes


class SSPE(nn.Module):
    """Masks (n,h,w) -> semantic superpixel positional embeddings (n,C).

    `plain` runs the cross-attention over every pixel instead of the exact shortcut: the reference
    for tests, of the same values and gradients.
    """

    def __init__(
        self, *, out_dim: int, queries: int, dim: int, heads: int, blocks: int, ffn: int
    ) -> None:
        super().__init__()
        self.plain = False
        self.mask_embed = nn.Embedding(2, dim)  # row 0 outside, row 1 inside
        self.query_feat = nn.Embedding(queries, dim)
        self.query_pos = nn.Embedding(queries, dim)
        self.stack = BlockStack(dim=dim, heads=heads, blocks=blocks, ffn=ffn)
        self.out_proj = nn.Linear(queries * dim, out_dim)

    def forward(self, masks: Tensor) -> Tensor:
        """masks (n,h,w): integers 0/1, or floating in [0,1] -> (n,C)."""
        # One row of queries: they are the same for all superpixels until one has seen its mask.
        start = self.query_feat.weight.unsqueeze(0)
        crossings = self.stack.crossings()
        looks = self._plain(masks, crossings) if self.plain else self._shortcut(masks, crossings)
        q_pos = self.query_pos.weight
        t = self.stack.decode(start, q_pos=q_pos, crossings=crossings, looks=looks)
        out: Tensor = self.out_proj(t.flatten(1))
        return out

    def _axes(self, masks: Tensor) -> tuple[Tensor, Tensor]:
        embed = self.mask_embed.weight
        y, x = sine_axes((masks.shape[1], masks.shape[2]), embed.shape[1], embed.device)
        return y.to(embed.dtype), x.to(embed.dtype)

    def _shortcut(self, masks: Tensor, crossings: Crossings) -> list[Look]:
        embed = self.mask_embed.weight
        ready = Masks.of(masks, embed.dtype)
        return mask_looks(self.stack.crossing, crossings, ready, embed, self._axes(masks))

    def _plain(self, masks: Tensor, crossings: Crossings) -> list[Look]:
        embed, (y, x) = self.mask_embed.weight, self._axes(masks)
        inside = masks.flatten(1).unsqueeze(2).to(embed.dtype)  # (n,G,1)
        memory = embed[0] + inside * (embed[1] - embed[0])
        keys = memory + (y[:, None] + x[None]).flatten(0, 1)

        def look(attn: Attention, k: Tensor, v: Tensor) -> Look:
            return lambda q: attn(q.expand(len(masks), -1, -1), k, v)

        every = (crossings.all_layers(keys, KEY), crossings.all_layers(memory, VALUE))
        return [look(*one) for one in zip(self.stack.crossing, *every, strict=True)]
