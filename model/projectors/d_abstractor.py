"""D-Abstractor (Honeybee): queries on a grid of learned reference points, deformable attention.

Each query looks at a few points per head around its reference point, bilinearly sampled from the
patch grid in float32. Source: honeybee 68a8d843, projectors/dabs.py 15-369, with the decoder layer
of transformers' Deformable DETR (4.34.1).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...pipeline.errors import ConfigError
from ..batch import Visual
from .base import Projector, Rename
from .grid import require_grid, to_map, to_tokens

POOLED = ("query", "tgt", "none")
INIT = ("deformable", "honeybee")
_LAYER = r"layers\.\d+\."
_END = r"\.(weight|bias)"


class DAbstractor(Projector):
    """Tables are tied to `grid` and `out_grid`. Weights keep their published names.

    `pooled` says what the average-pooled patches are: the queries' position ("query", the
    original's default), their start ("tgt"), or nothing ("none").
    `init="deformable"` spreads the sampling points as Deformable DETR does; "honeybee" repeats the
    original, whose outer initialisation overwrites that and starts all points on the reference.
    """

    prefixes = ("abstractor.",)
    exact = frozenset({"reference_points"})  # bfloat16 would round them by a tenth of a patch
    renames = (
        Rename(r"reference_points|v_pos_emb|query_position_embeddings\.weight"),
        Rename(r"(input_proj\.0|output_proj)" + _END),
        Rename(_LAYER + r"self_attn\.[qkv]_proj" + _END),
        Rename(r"(" + _LAYER + r"self_attn)\.(?:out|o)_proj" + _END, r"\1.out_proj.\2"),
        Rename(r"(" + _LAYER + r")(?:mlp\.)?(fc[12])" + _END, r"\1\2.\3"),
        Rename(
            _LAYER
            + r"encoder_attn\.(sampling_offsets|attention_weights|value_proj|output_proj)"
            + _END
        ),
        Rename(_LAYER + r"(self_attn|encoder_attn|final)_layer_norm" + _END),
    )

    def __init__(
        self,
        *,
        in_dim: int,
        llm_dim: int,
        grid: tuple[int, int],
        out_grid: tuple[int, int] = (6, 6),
        d_model: int = 1024,
        layers: int = 6,
        heads: int = 8,
        points: int = 4,
        ffn: int = 1024,
        dropout: float = 0.1,
        pooled: str = "query",
        init: str = "deformable",
    ) -> None:
        super().__init__(in_dim=in_dim, llm_dim=llm_dim)
        if pooled not in POOLED or init not in INIT:
            raise ConfigError(
                f"d_abstractor: pooled {pooled!r}, init {init!r}; need {POOLED}, {INIT}"
            )
        self.grid, self.out_grid, self.pooled = grid, out_grid, pooled
        queries = math.prod(out_grid)
        width = 2 * d_model if pooled == "none" else d_model
        self.reference_points = nn.Parameter(reference_points(grid, out_grid))
        self.v_pos_emb = nn.Parameter(torch.empty(1, math.prod(grid), d_model))
        self.query_position_embeddings = nn.Embedding(queries, width)
        resize = [nn.Linear(in_dim, d_model)] if in_dim != d_model else []
        self.input_proj = nn.Sequential(*resize)
        self.layers = nn.ModuleList(
            Layer(d_model, heads, points, ffn, dropout) for _ in range(layers)
        )
        self.output_proj = nn.Linear(d_model, llm_dim) if llm_dim != d_model else nn.Identity()
        self._start(init)

    def num_tokens(self, grid: tuple[int, int]) -> int:
        """The cells of `out_grid`."""
        require_grid("d_abstractor", self.grid, grid)
        return math.prod(self.out_grid)

    def project(self, x: Visual) -> Tensor:
        """(B,P,C) -> (B,K,D)."""
        values = self.input_proj(x.patches) + self.v_pos_emb
        t, pos = self._queries(values)
        for layer in self.layers:
            t = layer(t, pos, values, self.reference_points, x.grid)
        tokens: Tensor = self.output_proj(t)
        return tokens

    def _queries(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Content and position of the queries, (B,M,d) each."""
        table = self.query_position_embeddings.weight.expand(len(values), -1, -1)
        if self.pooled == "none":
            pos, t = table.chunk(2, dim=2)
            return t, pos
        mean = to_tokens(F.adaptive_avg_pool2d(to_map(values, self.grid), self.out_grid))
        return (table, mean) if self.pooled == "query" else (mean, table)

    def _start(self, init: str) -> None:
        nn.init.trunc_normal_(self.v_pos_emb, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if init == "deformable" and isinstance(module, DeformableAttention):
                module.spread_points()


class Layer(nn.Module):
    """Self-attention, deformable attention, ReLU feed-forward; post-norm, eps 1e-5."""

    def __init__(self, dim: int, heads: int, points: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = SelfAttention(dim, heads)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.encoder_attn = DeformableAttention(dim, heads, points)
        self.encoder_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1, self.fc2 = nn.Linear(dim, ffn), nn.Linear(ffn, dim)
        self.final_layer_norm = nn.LayerNorm(dim)
        self.drop = nn.Dropout(dropout)

    def forward(
        self, t: Tensor, pos: Tensor, values: Tensor, reference: Tensor, grid: tuple[int, int]
    ) -> Tensor:
        """t, pos (B,M,d), values (B,P,d), reference (1,M,2) -> (B,M,d)."""
        t = self.self_attn_layer_norm(t + self.drop(self.self_attn(t, pos)))
        seen = self.encoder_attn(t + pos, values, reference, grid)
        t = self.encoder_attn_layer_norm(t + self.drop(seen))
        out: Tensor = self.final_layer_norm(t + self.drop(self.fc2(F.relu(self.fc1(t)))))
        return out


class SelfAttention(nn.Module):
    """Attention among queries; positions on queries and keys only."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ConfigError(f"d_abstractor: {heads} heads do not divide the width {dim}")
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            nn.Linear(dim, dim) for _ in range(4)
        )

    def forward(self, t: Tensor, pos: Tensor) -> Tensor:
        """(B,M,d) -> (B,M,d)."""
        placed = t + pos
        parts = (self.q_proj(placed), self.k_proj(placed), self.v_proj(t))
        q, k, v = (x.view(*x.shape[:2], self.heads, -1).transpose(1, 2) for x in parts)
        seen = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out_proj(seen.transpose(1, 2).flatten(2))
        return out


class DeformableAttention(nn.Module):
    """A weighted sum of `points` samples per head, at offsets that the query chooses."""

    def __init__(self, dim: int, heads: int, points: int) -> None:
        super().__init__()
        self.heads, self.points = heads, points
        self.sampling_offsets = nn.Linear(dim, heads * points * 2)  # [head][point][x, y]
        self.attention_weights = nn.Linear(dim, heads * points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)

    def forward(
        self, q: Tensor, values: Tensor, reference: Tensor, grid: tuple[int, int]
    ) -> Tensor:
        """q (B,M,d), values (B,P,d), reference (1,M,2) as (x,y) in [0,1] -> (B,M,d)."""
        b, m, _ = q.shape
        wide = torch.promote_types(q.dtype, torch.float32)
        offset = self.sampling_offsets(q).view(b, m, self.heads, self.points, 2).to(wide)
        size = torch.tensor([grid[1], grid[0]], dtype=wide, device=q.device)
        place = reference.to(wide)[:, :, None, None] + offset / size
        weight = self.attention_weights(q).view(b, m, self.heads, self.points).softmax(-1)
        picture = to_map(self.value_proj(values).to(wide), grid)
        picture = picture.reshape(b * self.heads, -1, *grid)
        where = 2 * place.transpose(1, 2).flatten(0, 1) - 1  # (B*heads,M,points,2)
        with torch.autocast(q.device.type, enabled=False):
            samples = F.grid_sample(picture, where, padding_mode="zeros", align_corners=False)
            share = weight.to(wide).transpose(1, 2).flatten(0, 1).unsqueeze(1)
            seen = (samples * share).sum(-1).view(b, -1, m).transpose(1, 2)
        out: Tensor = self.output_proj(seen.to(values.dtype))
        return out

    def spread_points(self) -> None:
        """Deformable DETR's start: head m looks along angle 2 pi m / heads, point k at distance k."""
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        ray = torch.stack([angle.cos(), angle.sin()], dim=1)
        ray = ray / ray.abs().amax(1, keepdim=True)
        distance = torch.arange(1, self.points + 1)
        with torch.no_grad():
            bias = ray[:, None] * distance[None, :, None]
            self.sampling_offsets.bias.copy_(bias.flatten())
            for zero in (self.sampling_offsets.weight, self.attention_weights.weight):
                zero.zero_()
        nn.init.xavier_uniform_(self.value_proj.weight)
        nn.init.xavier_uniform_(self.output_proj.weight)


def reference_points(grid: tuple[int, int], out_grid: tuple[int, int]) -> Tensor:
    """(1, h'*w', 2) as (x,y) in [0,1]: from the first patch's centre to the last one's, evenly."""
    y, x = (
        torch.linspace(0.5, cells - 0.5, out) / cells
        for cells, out in zip(grid, out_grid, strict=True)
    )
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([grid_x, grid_y], dim=-1).view(1, -1, 2)
