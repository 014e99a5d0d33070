"""SVP: semantic superpixels as visual tokens for referring image segmentation.

The names of `__all__` are the public API (docs/api.md); every other module may move. They are
imported on first use, so `import svp` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .model.pretrained import Card, ProjectorSpec, load_pretrained, save_pretrained
    from .model.projectors import PROJECTORS, MaskInput, Projector, build_projector
    from .model.projectors.svp.drop_in import SVPProjector
    from .model.vlm import WrappedModel, wrap
    from .pipeline.cache.reader import CacheReader
    from .pipeline.cache.row_tier import RowTier
    from .pipeline.datasets import open_dataset
    from .pipeline.errors import SvpError
    from .pipeline.precompute.map_batches import Precompute
    from .pipeline.recipe import SuperpixelConfig
    from .pipeline.records import LocalPaths, Superpixels
    from .pipeline.superpixels.generator import build_generator
    from .train import metrics
    from .train.data.cache_dataset import CacheDataset
    from .train.runs.answer import Answer
    from .train.runs.segmenter import Segmenter, load
    from .train.runs.session import ImageSession

__version__ = "0.1.0"

__all__ = [
    "PROJECTORS",
    "Answer",
    "CacheDataset",
    "CacheReader",
    "Card",
    "ImageSession",
    "LocalPaths",
    "MaskInput",
    "Precompute",
    "Projector",
    "ProjectorSpec",
    "RowTier",
    "SVPProjector",
    "Segmenter",
    "SuperpixelConfig",
    "Superpixels",
    "SvpError",
    "WrappedModel",
    "build_generator",
    "build_projector",
    "load",
    "load_pretrained",
    "metrics",
    "open_dataset",
    "save_pretrained",
    "wrap",
]

# Name -> the module it is in; "" for a module itself.
_HOMES = {
    "model.pretrained": ("Card", "ProjectorSpec", "load_pretrained", "save_pretrained"),
    "model.projectors": ("PROJECTORS", "MaskInput", "Projector", "build_projector"),
    "model.projectors.svp.drop_in": ("SVPProjector",),
    "model.vlm": ("WrappedModel", "wrap"),
    "pipeline.cache.reader": ("CacheReader",),
    "pipeline.cache.row_tier": ("RowTier",),
    "pipeline.datasets": ("open_dataset",),
    "pipeline.errors": ("SvpError",),
    "pipeline.precompute.map_batches": ("Precompute",),
    "pipeline.recipe": ("SuperpixelConfig",),
    "pipeline.records": ("LocalPaths", "Superpixels"),
    "pipeline.superpixels.generator": ("build_generator",),
    "train": ("metrics",),
    "train.data.cache_dataset": ("CacheDataset",),
    "train.runs.answer": ("Answer",),
    "train.runs.segmenter": ("Segmenter", "load"),
    "train.runs.session": ("ImageSession",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'svp' has no attribute {name!r}")
    if name == "metrics":
        value: Any = import_module(".train.metrics", __name__)
    else:
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
