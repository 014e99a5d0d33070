"""C-Abstractor (Honeybee): convolutions, pooling, convolutions.

The block is RegNet's bottleneck with bottleneck ratio 1 and groups of one channel, so its 3x3
convolution is depthwise. Source: honeybee 68a8d843, projectors.py 56-177; timm 0.9.8 RegNet.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..batch import Visual
from .base import Projector, Rename
from .grid import require_grid, to_map, to_tokens

_STAGE = r"net\.[02]\.b\d+\."


class CAbstractor(Projector):
    """`depth` blocks on the grid, pooling to `out_grid`, `depth` blocks, an MLP with SiLU.

    `pos_emb` is tied to `grid`. Depth 0 only pools. Weights keep their published names.
    """

    prefixes = ("abstractor.",)
    renames = (
        Rename("pos_emb"),
        Rename(_STAGE + r"(conv[123]|downsample)\.(conv\.weight|bn\.(weight|bias))"),
        Rename(_STAGE + r"se\.fc[12]\.(weight|bias)"),
        Rename(r"readout\.\d+\.(weight|bias)"),
    )

    def __init__(
        self,
        *,
        in_dim: int,
        llm_dim: int,
        grid: tuple[int, int],
        out_grid: tuple[int, int] = (6, 6),
        hidden: int = 1024,
        depth: int = 3,
        mlp_depth: int = 2,
        pos_emb: bool = True,
    ) -> None:
        super().__init__(in_dim=in_dim, llm_dim=llm_dim)
        self.grid, self.out_grid = grid, out_grid
        self.pos_emb = nn.Parameter(torch.zeros(1, math.prod(grid), in_dim)) if pos_emb else None
        pool = nn.AdaptiveAvgPool2d(out_grid)
        before, after = _stage(in_dim, hidden, depth), _stage(hidden, hidden, depth)
        self.net = nn.Sequential(before, pool, after)
        self.readout = _readout(hidden if depth else in_dim, llm_dim, mlp_depth)
        self._start()

    def num_tokens(self, grid: tuple[int, int]) -> int:
        """The cells of `out_grid`."""
        require_grid("c_abstractor", self.grid, grid)
        return math.prod(self.out_grid)

    def project(self, x: Visual) -> Tensor:
        """(B,P,C) -> (B,K,D)."""
        patches = x.patches if self.pos_emb is None else x.patches + self.pos_emb
        tokens: Tensor = self.readout(to_tokens(self.net(to_map(patches, x.grid))))
        return tokens

    @classmethod
    def from_original(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """As `Projector`'s. Old files' `pos_emb` starts with a row for the class token: dropped."""
        named = super().from_original(state)
        if (table := named.get("pos_emb")) is not None:
            rows = table.shape[1]
            if math.isqrt(rows) ** 2 != rows and math.isqrt(rows - 1) ** 2 == rows - 1:
                named["pos_emb"] = table[:, 1:]  # the originals' grids are square
        return named

    def _start(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.pos_emb is not None:
            nn.init.trunc_normal_(self.pos_emb, std=0.02)


class Block(nn.Module):
    """Bottleneck with squeeze-excite; SiLU after the sum, none after the last convolution."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inputs, width)
        self.conv2 = ConvNorm(width, width, kernel=3, groups=width)
        self.se = SqueezeExcite(width, round(0.25 * inputs))
        self.conv3 = ConvNorm(width, width)
        self.downsample = ConvNorm(inputs, width) if inputs != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B,inputs,h,w) -> (B,width,h,w)."""
        y = F.silu(self.conv2(F.silu(self.conv1(x))))
        return F.silu(self.conv3(self.se(y)) + self.downsample(x))


class ConvNorm(nn.Module):
    """Convolution without bias, then LayerNorm over channels at each pixel, eps 1e-5."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False
        )
        self.bn = nn.LayerNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B,inputs,h,w) -> (B,outputs,h,w)."""
        y: Tensor = self.bn(self.conv(x).movedim(1, 3))
        return y.movedim(3, 1)


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate that sees the mean of all channels."""

    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,h,w) -> (B,C,h,w)."""
        mean = x.mean((2, 3), keepdim=True)
        gate: Tensor = self.fc2(F.silu(self.fc1(mean)))
        return x * gate.sigmoid()


def _stage(inputs: int, width: int, depth: int) -> nn.Sequential:
    stage = nn.Sequential()
    for i in range(depth):
        stage.add_module(f"b{i + 1}", Block(inputs if i == 0 else width, width))
    return stage


def _readout(inputs: int, outputs: int, depth: int) -> nn.Sequential:
    steps: list[nn.Module] = [nn.Linear(inputs, outputs)]
    for _ in range(depth - 1):
        steps += [nn.SiLU(), nn.Linear(outputs, outputs)]
    return nn.Sequential(*steps)
