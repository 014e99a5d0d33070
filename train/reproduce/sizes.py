"""Sizes of the experiments: token budgets, layers, widths and unavailable rows.

Equal token budget (the paper: "a similar average number"): the window methods can only divide the patch grid, so 36 =
6x6 of 24x24 at paper size and 16 = 4x4 of 16x16 at tiny size; Q-Former takes 40 and 16 queries. SVP
varies by image; its true mean is reported.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from pydantic import JsonValue

from ...model.projectors import ANSWERS
from ...pipeline.display import show
from ...pipeline.errors import ConfigError
from ...pipeline.io.yaml_files import shipped_yaml

Options = Mapping[str, JsonValue]


@dataclass(frozen=True)
class Setting:
    """One size.

    side      side of the token grid of compressive projectors
    window    side of the windows that give this grid
    queries   of Q-Former
    layers    encoder layers that TokenPacker reads, 1-based
    last      the encoder's last four layers (Table 7)
    shallow   CLIP's shallow and deep layers (Table 7)
    narrow    options that bring a projector's width and depth to this size; none: as published
    clip, mobile  this size's CLIP and MobileSAM
    no_clip   why rows with CLIP cannot be run, or ""
    no_mobile why rows with MobileSAM cannot be run, or ""
    no_published  why the row of a published model cannot be run, or ""
    answers   every projector learns token answers beside (`model.projectors.token_answer`)
    slic      SLIC's n_segments, calibrated on training images to SAM's mean number of superpixels
              (tiny: 15.4 labels on 60 scenes, SAM 15.8; paper: 40)
    points    prompts per side in each window of the finer superpixels
    queries_swept, blocks_swept   Fig. 5
    superpixels  SAM's mean number, to which `slic` is calibrated
    divt, mqt    options of these projectors at this size
    thresholds   of DiVT, each with the mean number of its clusters (tiny: of 60 scenes; paper: as
                 published, of CLIP); the middle one trains
    m3           sides of M3's token grids
    """

    size: str
    side: int
    window: int
    queries: int
    layers: tuple[int, ...]
    last: tuple[int, ...]
    shallow: tuple[int, ...]
    slic: int
    points: int
    queries_swept: tuple[int, ...]
    blocks_swept: tuple[int, ...]
    superpixels: float
    divt: Options
    mqt: Options
    thresholds: tuple[tuple[float, int], ...]
    m3: tuple[int, ...]
    narrow: Mapping[str, Options] = field(default_factory=dict)
    clip: str = "clip-large-336"
    mobile: str = "vit_t"
    no_clip: str = ""
    no_mobile: str = ""
    no_published: str = ""
    answers: bool = False

    @cached_property
    def svp(self) -> dict[str, JsonValue]:
        """SVP's own options in the shipped recipe of this size."""
        projector = shipped_yaml("train", self.size)["model"]["projector"]
        options = projector.get("options", {})
        return {name: value for name, value in options.items() if name != ANSWERS}


# Widths as the encoder's (1024 there, 96 here), depths two thirds: as the shipped SVP is to the
# paper's. `drop_path` and dropout are as published.
_NARROW: Mapping[str, Options] = {
    "c_abstractor": {"hidden": 96, "depth": 2},
    "d_abstractor": {"d_model": 96, "layers": 4, "heads": 4, "ffn": 96},
    "tokenpacker": {"embed_dim": 96, "heads": 4},
    "pvtc": {"heads": 4},
    "qformer": {"hidden": 96, "layers": 8, "heads": 4, "ffn": 384},
}

SETTINGS: Mapping[str, Setting] = {
    "tiny": Setting(
        size="tiny", side=4, window=4, queries=16,
        layers=(3, 4, 5, 6), last=(3, 4, 5, 6), shallow=(),
        slic=29, points=8,
        queries_swept=(1, 2, 4, 8, 16), blocks_swept=(1, 2, 3, 4),
        superpixels=15.4, divt={"embed_dim": 96, "heads": 4}, mqt={"side": 8, "heads": 4},
        thresholds=((0.1, 4), (0.28, 8), (0.51, 16), (0.71, 32), (0.865, 64)), m3=(1, 2, 4, 8, 16),
        narrow=_NARROW,
        no_clip="no CLIP of these scenes exists; --size world2 has one",
        no_mobile="no MobileSAM of these scenes exists; --size world2 has one",
    ),
    "paper": Setting(
        size="paper", side=6, window=4, queries=40,
        layers=(12, 16, 22, 23), last=(21, 22, 23, 24), shallow=(6, 12, 18, 23),
        slic=57, points=32,
        queries_swept=(1, 4, 8, 16, 32), blocks_swept=(1, 2, 3, 4, 5),
        superpixels=40, divt={}, mqt={},
        thresholds=((0.5, 36), (0.65, 74), (0.75, 137)), m3=(1, 3, 6, 12, 24),
    ),
}  # fmt: skip


SETTINGS = {  # the tiny models of the harder scenes
    **SETTINGS,
    # SLIC calibrated on 60 training scenes (10.6 labels, SAM 10.7 superpixels), DiVT on as many.
    "world2": replace(
        SETTINGS["tiny"],
        size="world2",
        answers=True,
        clip="tiny-clip-world2",
        mobile="tiny-mobile-world2",
        no_clip="",
        no_mobile="",
        no_published="no published model of these scenes exists",
        shallow=(1, 2, 3),  # of CLIP's four blocks; its patches are those of the third
        slic=18,
        superpixels=10.7,
        thresholds=((0.336, 4), (0.598, 8), (0.779, 16), (0.888, 32), (0.954, 64)),
    ),
}


def setting(size: str) -> Setting:
    """The setting of a size. Raises ConfigError."""
    if size not in SETTINGS:
        raise ConfigError(f"--size {show(size)}: tables exist at {', '.join(SETTINGS)}")
    return SETTINGS[size]
