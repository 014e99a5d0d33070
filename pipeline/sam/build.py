"""SAM models without weights: build on the meta device, identify by keys, initialise randomly.

Which there are, and which module builds each, stands in `fetch.sam_specs.SAMS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .. import plugins
from ..display import show
from ..errors import ConfigError, WeightsError
from ..fetch.sam_specs import SAMS, SamSpec
from ..recipe import sam_row
from ..weights.rehearsal import rehearsal_settings

if TYPE_CHECKING:
    from torch import Tensor

Colour = tuple[float, float, float]
PIXEL_MEAN, PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def _as_it_is(state: "Mapping[str, Tensor]") -> "tuple[dict[str, Tensor], tuple[str, ...]]":
    return dict(state), ()


@dataclass(frozen=True, slots=True)
class Family:
    """Functions that build and fill one SAM.

    build      an untrained `modeling.Sam` in evaluation mode
    meta       build it on the meta device: no memory, no random initialisation. Not where a
               module fills buffers that no checkpoint has
    from_file  a state dict under the names of `build`'s model, and the names it does not read
    """

    build: Callable[[], Any]
    meta: bool = False
    from_file: "Callable[[Mapping[str, Tensor]], tuple[dict[str, Tensor], tuple[str, ...]]]" = (
        _as_it_is
    )


def sam_spec(model: str) -> SamSpec:
    """The row of `model`, as small as a rehearsal in force makes it. Raises ConfigError.

    A rehearsal's encoder has one head: the attention of all 4,096 patches is what costs.
    """
    row = sam_row(model)
    if row is None:
        raise ConfigError(f"model={show(model)}: allowed are {', '.join(SAMS)}")
    found = rehearsal_settings()
    if found is None or model not in found.sam:
        return row
    width, depth = found.sam[model]
    return replace(row, width=width, depth=depth, heads=1, global_blocks=(depth - 1,))


def family(model: str) -> Family:
    """Family of `model`, from the module that its row names. Raises ConfigError."""
    spec = sam_spec(model)
    found: Family = import_module(spec.module, __package__).family(spec)
    return found


def build_sam(model: str) -> Any:
    """An untrained `modeling.Sam` that waits for `load_into`: on the meta device where it may be."""
    kind = family(model)
    if not kind.meta:
        return kind.build()
    import torch

    with torch.device("meta"):
        sam = kind.build()
    # Not in any checkpoint (non-persistent buffers), so loading would leave them on meta.
    sam.pixel_mean = torch.tensor(PIXEL_MEAN).view(-1, 1, 1)
    sam.pixel_std = torch.tensor(PIXEL_STD).view(-1, 1, 1)
    return sam


def random_sam(model: str, seed: int) -> Any:
    """`model` with its default initialisation from `seed`; the global generator is untouched.

    Outputs are finite and meaningless: predicted IoU is near 0, so with the default thresholds no
    mask survives. For tests of the machinery and for timing.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sam = family(model).build()
    sam.eval()
    return sam.requires_grad_(False)


def detect_type(state: "Mapping[str, Tensor]") -> str | None:
    """Entry of `SAMS` that a file contains, from names and shapes; None if unknown."""
    plugins.find_all(plugins.SAMS)
    if found := next((s.name for s in SAMS.values() if s.anchor and s.anchor in state), None):
        return found
    position = state.get("image_encoder.pos_embed")
    if position is None or position.ndim != 4:
        return None
    blocks = {name.split(".")[2] for name in state if name.startswith("image_encoder.blocks.")}
    seen = (position.shape[-1], len(blocks))
    rows = map(sam_spec, SAMS)
    return next((row.name for row in rows if (row.width, row.depth) == seen), None)


def _told_by(model: str) -> tuple[str, int, int]:
    """Key by which a file is told apart from others: two rows of one shape share it."""
    row = sam_spec(model)
    return row.anchor, row.width, row.depth


def check_type(state: "Mapping[str, Tensor]", model: str, where: str) -> None:
    """`WeightsError` if the file holds another known SAM type than the recipe's `model`."""
    found = detect_type(state)
    if found is not None and _told_by(found) != _told_by(model):
        raise WeightsError(
            f"{show(where, 200)}: holds SAM {found}, the recipe says {model}: set model={found}"
        )
