"""Upper bound of the speed of a live answer of SVP against the MLP, whatever is optimised.

Both project the features of one vision encoder and decode masks of one SAM embedding, so both encoders
are in both times. Even with superpixels for nothing the ratio is at most
(encoders + LLM of the MLP) / (encoders + LLM of SVP).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...pipeline.bench.kernel_time import H200, DeviceRates
from ...pipeline.bench.operators import Kernels
from ...pipeline.display import markdown_table
from ...pipeline.fetch.encoder_specs import ENCODERS
from ...pipeline.fetch.sam_specs import SAMS
from .presets import PRESETS

# Of its 71 TFLOP/s (dense, float32 sums) and 936 GB/s the shares that an H200's kernels reach of theirs.
RTX3090 = DeviceRates(products=0.8 * 71e12, memory=0.75 * 936e9, launch=18e-6)
DEVICES: Mapping[str, DeviceRates] = {"H200": H200, "RTX 3090": RTX3090}
GRID = 1024  # prompts of a photograph; 64 in one call of segment_anything's generator
CALL = 64


@dataclass(frozen=True, slots=True)
class Bound:
    """Seconds of one answer's parts on a device that never waits for its host.

    encoders  SAM's and the vision encoder, in both
    mlp, svp  language model with their tokens
    call      64 prompts of SAM's decoder, products alone; grid  1,024
    """

    encoders: float
    mlp: float
    svp: float
    call: float
    grid: float

    @property
    def ratio(self) -> float:
        """MLP / SVP where superpixels cost nothing."""
        return (self.encoders + self.mlp) / (self.encoders + self.svp)

    @property
    def with_grid(self) -> float:
        """MLP / SVP where superpixels cost the decoder's products of 1,024 prompts and no more."""
        return (self.encoders + self.mlp) / (self.encoders + self.svp + self.grid)


def bound(mlp: Kernels, svp: Kernels, rates: DeviceRates) -> Bound:
    """Of the paper's encoders, with the kernels of the language model's passes of one image."""
    preset = PRESETS["paper"]
    sam = SAMS[preset.sam]
    encoders = 1e12 * (sam.tflop + ENCODERS[preset.encoder].tflop) / rates.products
    prompt = 1e9 * sam.prompt_gflop / rates.products
    whole, few = rates.device_seconds(mlp), rates.device_seconds(svp)
    return Bound(encoders, whole, few, CALL * prompt, GRID * prompt)


def lines(mlp: Kernels, svp: Kernels) -> Sequence[str]:
    """Markdown: one row per device, in milliseconds."""
    rows = []
    for name, rates in DEVICES.items():
        found = bound(mlp, svp, rates)
        times = (found.encoders, found.mlp, found.svp, found.call, found.grid)
        rows.append((name, *(f"{1e3 * t:.1f}" for t in times), f"{found.ratio:.2f}",
                     f"{found.with_grid:.2f}"))  # fmt: skip
    head = ("one live answer at best, ms", "encoders", "LLM, MLP", "LLM, SVP", "64 prompts",
            "1,024 prompts", "MLP / SVP, superpixels free", "MLP / SVP, 1,024 prompts")  # fmt: skip
    return markdown_table(head, rows).splitlines()
