"""Convolutional patch stem beside the patch embedding, for the tiny SAM and encoder.

A plain ViT of their size learns outlines and shapes far too slowly for an hour on a CPU: its first
layer sees each 8x8 patch alone. The stack sees 39 pixels across the patch borders. Its last layer
starts at zero, so that it can join a training that has begun.
"""

from torch import Tensor, nn

_SIZES = ((3, 32, 2), (32, 48, 2), (48, 64, 1), (64, 96, 2))  # inputs, outputs, stride


class PatchStem(nn.Module):
    """(B,3,H,W) to (B,C,H/8,W/8): `proj`, a convolution of stride 8, plus the stack."""

    def __init__(self, proj: nn.Conv2d) -> None:
        super().__init__()
        self.proj = proj
        width = proj.out_channels
        layers: list[nn.Module] = []
        for inside, outside, stride in (*_SIZES, (96, width, 1)):
            layers += [nn.Conv2d(inside, outside, 3, stride, 1), nn.ReLU()]
        last = nn.Conv2d(width, width, 1)
        nn.init.zeros_(last.weight)
        self.stem = nn.Sequential(*layers, last)

    @property
    def weight(self) -> Tensor:
        """Weight from which transformers reads the dtype of its patch embedding."""
        return self.proj.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(x) + self.stem(x)
        return out


class SamPatches(PatchStem):
    """In the layout of segment_anything's `PatchEmbed`: (B,h,w,C)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).permute(0, 2, 3, 1)
