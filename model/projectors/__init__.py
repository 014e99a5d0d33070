"""Projector registry: every projector of the comparison, by name."""

from inspect import signature
from typing import Any

from ...pipeline import plugins
from ...pipeline.display import show
from ...pipeline.errors import ConfigError, SvpError
from .adatok import AdaTok
from .base import MaskInput, Projector
from .c_abstractor import CAbstractor
from .d_abstractor import DAbstractor
from .deco import DeCo
from .divprune import DivPrune
from .divt import DiVT
from .fusion import Fusion
from .ldpv2 import LDPv2
from .m3 import M3
from .mlp import MLP
from .mqt import MQT
from .payn import PAYN
from .pixel_shuffle import PixelShuffle
from .pvtc import PVTC
from .qformer import QFormer
from .random_patches import RandomPatches
from .svp import SVP
from .token_answer import TokenAnswer
from .tokenpacker import TokenPacker
from .tome import ToMe

__all__ = ["PROJECTORS", "MaskInput", "Projector", "build_projector", "projector_class"]

ANSWERS = "token_answers"  # option of every projector
PROJECTORS: dict[str, type[Projector]] = {
    "mlp": MLP,
    "pixel_shuffle": PixelShuffle,
    "c_abstractor": CAbstractor,
    "d_abstractor": DAbstractor,
    "deco": DeCo,
    "ldpv2": LDPv2,
    "tokenpacker": TokenPacker,
    "pvtc": PVTC,
    "qformer": QFormer,
    "svp": SVP,
    "fusion": Fusion,
    "divt": DiVT,
    "tome": ToMe,
    "divprune": DivPrune,
    "random_patches": RandomPatches,
    "payn": PAYN,
    "mqt": MQT,
    "m3": M3,
    "adatok": AdaTok,
}
plugins.attach(plugins.PROJECTORS, PROJECTORS, Projector)


def projector_class(name: str) -> type[Projector]:
    """The projector `name`, of this package or of a plug-in.

    Raises ConfigError listing what there is, MissingError for a plug-in file that is not there.
    """
    found: type[Projector] = plugins.lookup(plugins.PROJECTORS, name)
    return found


def build_projector(
    name: str, *, in_dim: int, llm_dim: int, grid: tuple[int, int] | None = None, **options: Any
) -> Projector:
    """The projector `name` from C = `in_dim` channels to D = `llm_dim`.

    `grid` (h,w) goes to the projectors that have tables tied to it, and is ignored by others. Pairs
    may come as lists, as YAML has them. `token_answers=True` gives any of them that head. Raises ConfigError for an unknown name or option, or for
    values that do not fit.
    """
    kind = projector_class(name)
    allowed = kind.options() | {ANSWERS}
    if wrong := sorted(options.keys() - allowed):
        raise ConfigError(
            f"projector {name} has no option {', '.join(wrong)}; it has {', '.join(sorted(allowed))}"
        )
    given = {key: tuple(v) if isinstance(v, list) else v for key, v in options.items()}
    answers = given.pop(ANSWERS, False)
    if "grid" in signature(kind).parameters:
        if grid is None:
            raise ConfigError(f"projector {name} needs the patch grid")
        given["grid"] = grid
    try:
        built = kind(in_dim=in_dim, llm_dim=llm_dim, **given)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:  # e.g. no such size
        if isinstance(error, SvpError):
            raise
        raise ConfigError(
            f"projector {name} cannot be built with {show(given, 200)}: {show(str(error), 200)}"
        ) from error
    if answers:
        built.answers = TokenAnswer(llm_dim)
    return built
