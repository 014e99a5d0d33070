"""Code that made the layers of a cache: `logs/made_by.json`.

A layer's id names settings, versions and images, not the code. Within one cache that is the user's
affair, as it is for any resumed run; but a new cache must never get rows of an older state of the
code from a cache that happens to lie beside it. So layers are shared by equal code alone. The record
is no part of a cache's content: without it a cache is read as ever and lends nothing.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from ..errors import CacheError, MissingError
from ..fetch.encoder_specs import ENCODERS
from ..fetch.sam_specs import SAMS
from ..recipe import Recipe
from ..store import Place, Store, open_store
from ..weights.rehearsal import VARIABLE
from .layers import ENCODED, Layer
from .layout import LOGS
from .manifest import committed_shards

MADE_BY = "made_by.json"
UNKNOWN = "unknown"
MAX_BYTES = 1 << 20


def note_code(cache: Place, layers: Iterable[Layer]) -> None:
    """Record that the code that runs is about to write shards of `layers`."""
    store = open_store(cache)
    found = _read(store)
    for layer in layers:
        if layer.folder not in found:  # shards that are there without a record may be of any code
            found[layer.folder] = [UNKNOWN] if committed_shards(store, layer) else []
        makers = found[layer.folder]
        makers += [code_digest()] if code_digest() not in makers else []
    text = json.dumps(found, indent=1, sort_keys=True) + "\n"
    store.replace(f"{LOGS}/{MADE_BY}", text.encode(), label="made_by")


def same_code(cache: Place, layer: Layer) -> bool:
    """Whether every shard of `layer` in a cache is known to be made by the code that runs."""
    return _read(open_store(cache)).get(layer.folder) == [code_digest()]


def shared_kinds(recipe: Recipe, kinds: Iterable[str]) -> set[str]:
    """Those of `kinds` that caches may share: not made by a plug-in's network, whose code is not ours."""
    features, pixels = recipe.features, recipe.superpixels
    encoders = [one.encoder for one in (features, features.beside) if one is not None]
    foreign: set[str] = set()
    if not all(ENCODERS[name].module.startswith(".") for name in encoders):
        foreign |= {*ENCODED, "order"}
    if not SAMS[pixels.model].module.startswith("."):
        foreign |= {"superpixels", "cover", "pooled", "sam", "order"}
        foreign |= {"features"} if features.stored == "mean+int4" else set()
    return {*kinds} - foreign


def code_digest() -> str:
    """sha256 of this package's code that makes layers, and of the rehearsal's settings in force."""
    return _code_digest(os.environ.get(VARIABLE, ""))


@cache
def _code_digest(rehearsal: str) -> str:
    root = Path(__file__).parents[1]
    digest = hashlib.sha256(rehearsal.encode())
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _read(cache: Store) -> dict[str, list[str]]:
    """The record; empty if there is none that can be read."""
    try:
        raw = json.loads(cache.read(f"{LOGS}/{MADE_BY}", MAX_BYTES))
        return {str(name): [str(maker) for maker in makers] for name, makers in raw.items()}
    except (CacheError, MissingError, ValueError, AttributeError, TypeError, RecursionError):
        return {}
