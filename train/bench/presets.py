"""Sizes of the speed comparison: one for a CPU, one of the paper's shapes.

Everything is random, so nothing is downloaded; times depend on shapes only. The photographs are
noise, and their superpixels are the cells of a regular grid (`grid_cells`), 40 of them, the paper's mean.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ...pipeline.display import show
from ...pipeline.errors import ConfigError
from ...pipeline.fetch.encoder_specs import ENCODERS
from ...pipeline.fetch.sam_specs import SAMS
from ...pipeline.recipe import FeatureConfig
from ...pipeline.weights.reference import WeightsRef

CELLS = (5, 8)  # rows and columns of superpixels: 40 [paper]


@dataclass(frozen=True, slots=True)
class Preset:
    """Shapes of one comparison.

    hidden, layers, heads, intermediate, vocab   the language model, LLaMA's architecture
    encoder                vision encoder, at its usual size
    sam, points            SAM type; side of the grid of prompts for live superpixels
    dtype                  of frozen weights and of the arithmetic; what trains is float32
    images                 per optimizer step, three sentences each
    micro                  images per forward pass, by projector: what fits the memory
    photo                  (H,W), COCO's most frequent size
    prompt                 text ids of a dialogue of one sentence, about LLaMA's on RefCOCO
    answer                 ids generated
    batch                  images per forward pass of the case "batch", as an evaluation has; 1: none
    targets                  ratios MLP / SVP to reach, by the names of `SpeedReport.ratios`
    """

    name: str
    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocab: int
    encoder: str
    sam: str
    points: int
    dtype: Literal["float32", "bfloat16"]
    images: int
    micro: Mapping[str, int]
    photo: tuple[int, int] = (480, 640)
    prompt: int = 72
    answer: int = 8
    batch: int = 1
    targets: Mapping[str, float] = field(default_factory=dict)

    @property
    def embedding(self) -> tuple[int, int, int]:
        """(c,h,w) of SAM's image embedding."""
        return SAMS[self.sam].embedding

    @property
    def view(self) -> int:
        """Side of the encoder's square input, pixels."""
        return ENCODERS[self.encoder].size

    @property
    def grid(self) -> int:
        """Side of the encoder's patch grid."""
        return self.view // ENCODERS[self.encoder].patch

    @property
    def channels(self) -> int:
        """Width C of the encoder's patch features."""
        return ENCODERS[self.encoder].hidden

    @property
    def features(self) -> FeatureConfig:
        """The vision encoder as a recipe names it."""
        return FeatureConfig(
            encoder=self.encoder,
            weights=WeightsRef("random", "0"),
            size=self.view,
            dtype=self.dtype,
        )


PRESETS: Mapping[str, Preset] = {
    "cpu": Preset(
        name="cpu", hidden=2048, layers=16, heads=16, intermediate=5504, vocab=8192,
        encoder="dinov2-small",
        sam="tiny", points=16, dtype="float32",
        images=2, micro={"mlp": 1, "svp": 2},
        targets={"stage 2, from cache": 3.5, "forward, live": 2.5},
    ),
    "paper": Preset(
        name="paper", hidden=4096, layers=32, heads=32, intermediate=11008, vocab=32007,
        encoder="dinov2-large",
        sam="vit_h", points=32, dtype="bfloat16",
        images=24, micro={"mlp": 6, "svp": 24}, batch=16,
        targets={"stage 2, SVP from cache, MLP live": 4.0, "forward, live": 3.0},
    ),
}  # fmt: skip


def preset(name: str, layers: int | None = None) -> Preset:
    """A preset, with another number of LLM layers if given. Raises ConfigError."""
    if name not in PRESETS:
        raise ConfigError(f"preset {show(name)}: need one of {', '.join(PRESETS)}")
    if layers is not None and layers < 1:
        raise ConfigError(f"layers={layers}: need >= 1")
    return PRESETS[name] if layers is None else replace(PRESETS[name], layers=layers)
