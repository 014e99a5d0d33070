"""Q-Former (BLIP-2): learned queries read the patches through a BERT-shaped decoder.

Only the query branch exists here. Image keys carry no positions, and the queries pass a LayerNorm
before the first layer. Source: transformers 5.23, blip_2/modeling_blip_2.py 535-948; LAVIS
506965b9, Qformer.py. Both name layouts load; text-branch, vision and LLM weights are dropped.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...pipeline.errors import ConfigError
from ..batch import Visual
from .base import Projector, Rename

EPS = 1e-12  # BERT's
_LAYER = r"(?:qformer|Qformer\.bert)\.encoder\.layer\.(\d+)\."
_END = r"\.(weight|bias)"


def _attention_names(old: str, new: str) -> tuple[Rename, ...]:
    return (
        Rename(
            _LAYER + old + r"\.(?:attention|self)\.(query|key|value)" + _END,
            rf"layers.\1.{new}.\2.\3",
        ),
        Rename(_LAYER + old + r"\.output\.dense" + _END, rf"layers.\1.{new}.out.\2"),
        Rename(_LAYER + old + r"\.output\.LayerNorm" + _END, rf"layers.\1.{new}.norm.\2"),
    )


class QFormer(Projector):
    """`tokens` learned queries; cross-attention in every `cross_every`-th layer, from the first.

    `ln_vision` puts LAVIS's LayerNorm on the patches; DINOv2's already passed one.
    """

    prefixes = ("model.",)
    renames = (
        Rename("query_tokens"),
        Rename(r"(?:qformer\.layernorm|Qformer\.bert\.embeddings\.LayerNorm)" + _END, r"norm.\1"),
        *_attention_names("attention", "self_attn"),
        *_attention_names("crossattention", "cross_attn"),
        Rename(_LAYER + r"intermediate_query\.dense" + _END, r"layers.\1.fc1.\2"),
        Rename(_LAYER + r"output_query\.dense" + _END, r"layers.\1.fc2.\2"),
        Rename(_LAYER + r"output_query\.LayerNorm" + _END, r"layers.\1.norm.\2"),
        Rename(r"(?:language_projection|opt_proj|t5_proj|llm_proj)" + _END, r"proj.\1"),
        Rename(r"ln_vision" + _END),
        Rename(_LAYER + r"(intermediate|output)\..+", None),
        Rename(r"(.+\.)?embeddings\.(word_embeddings|position_embeddings)\..+", None),
        Rename(r"(.+\.)?position_ids", None),
        Rename(r"Qformer\.cls\..+", None),
        Rename(r"(visual_encoder|vision_model|(language|opt|t5|llm)_model)\..+", None),
    )

    def __init__(
        self,
        *,
        in_dim: int,
        llm_dim: int,
        tokens: int = 40,
        hidden: int = 768,
        layers: int = 12,
        heads: int = 12,
        ffn: int = 3072,
        cross_every: int = 2,
        dropout: float = 0.1,
        ln_vision: bool = False,
    ) -> None:
        super().__init__(in_dim=in_dim, llm_dim=llm_dim)
        self.dropout = dropout
        self.query_tokens = nn.Parameter(torch.empty(1, tokens, hidden))
        self.ln_vision = nn.LayerNorm(in_dim) if ln_vision else nn.Identity()
        self.norm = nn.LayerNorm(hidden, eps=EPS)
        self.layers = nn.ModuleList(
            Layer(hidden, heads, ffn, dropout, in_dim if i % cross_every == 0 else None)
            for i in range(layers)
        )
        self.proj = nn.Linear(hidden, llm_dim)
        self._start()

    def num_tokens(self, grid: tuple[int, int]) -> int:
        """The number of queries."""
        return self.query_tokens.shape[1]

    def project(self, x: Visual) -> Tensor:
        """(B,P,C) -> (B,K,D)."""
        image = self.ln_vision(x.patches)
        t = self.norm(self.query_tokens).expand(len(image), -1, -1)
        t = F.dropout(t, self.dropout, self.training)
        for layer in self.layers:
            t = layer(t, image)
        tokens: Tensor = self.proj(t)
        return tokens

    def _start(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.query_tokens, std=0.02)


class Layer(nn.Module):
    """Self-attention, cross-attention where `image_dim` is given, feed-forward; post-norm."""

    def __init__(
        self, hidden: int, heads: int, ffn: int, dropout: float, image_dim: int | None
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.self_attn = BertAttention(hidden, hidden, heads, dropout)
        if image_dim is not None:
            self.cross_attn = BertAttention(hidden, image_dim, heads, dropout)
        self.fc1, self.fc2 = nn.Linear(hidden, ffn), nn.Linear(ffn, hidden)
        self.norm = nn.LayerNorm(hidden, eps=EPS)
        self.crosses = image_dim is not None

    def forward(self, t: Tensor, image: Tensor) -> Tensor:
        """t (B,K,hidden), image (B,P,C) -> (B,K,hidden)."""
        t = self.self_attn(t, t)
        if self.crosses:
            t = self.cross_attn(t, image)
        y = F.dropout(self.fc2(F.gelu(self.fc1(t))), self.dropout, self.training)
        out: Tensor = self.norm(t + y)
        return out


class BertAttention(nn.Module):
    """t = LN(t + dropout(out(attention(t -> memory))))."""

    def __init__(self, hidden: int, memory: int, heads: int, dropout: float) -> None:
        super().__init__()
        if hidden % heads:
            raise ConfigError(f"qformer: {heads} attention heads do not divide the width {hidden}")
        self.heads, self.dropout = heads, dropout
        self.query, self.out = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.key, self.value = nn.Linear(memory, hidden), nn.Linear(memory, hidden)
        self.norm = nn.LayerNorm(hidden, eps=EPS)

    def forward(self, t: Tensor, memory: Tensor) -> Tensor:
        """t (B,K,hidden), memory (B,L,width) -> (B,K,hidden)."""
        parts = (self.query(t), self.key(memory), self.value(memory))
        q, k, v = (x.view(*x.shape[:2], self.heads, -1).transpose(1, 2) for x in parts)
        rate = self.dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(q, k, v, dropout_p=rate)
        y = F.dropout(self.out(seen.transpose(1, 2).flatten(2)), self.dropout, self.training)
        out: Tensor = self.norm(t + y)
        return out
