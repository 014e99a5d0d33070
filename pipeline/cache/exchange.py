"""Take layers of caches apart and together: reuse, drop, copy.

A layer is equal in every cache whose image list, settings and code are equal, byte for byte, so it
is linked from where it lies (copied over file systems) instead of being computed again.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ..display import show
from ..errors import CacheError, ConfigError, SvpError
from ..io.atomic import make_folder, sync_folder, write_file, writing
from ..io.paths import refuse_links
from .create import create_cache
from .index import finalize, is_complete
from .layers import CLS, KINDS, LAYERS, POOLED, SAM, Layer
from .layout import LAYER, PLAN, VIEWS, manifest_path, shard_path
from .made_by import note_code, same_code, shared_kinds
from .manifest import (
    FileEntry,
    Manifest,
    committed_shards,
    damaged_files,
    read_committed,
    read_manifest,
)
from .places import copy_places
from .plan import Plan, all_plans
from .schema import ArraySpec
from .verify import file_digest, layers_in

OPTIONAL = (POOLED, LAYERS, CLS, SAM)  # kinds that a plan can do without


def reuse(cache: Path, plan: Plan, others: Iterable[Path]) -> dict[str, Path]:
    """Bring what other caches have of the plan's layers into `cache`; safe to repeat.

    The cache must have been created. Only layers that the same code made are taken, and of them no
    shard with a quarantined image: that image is tried again here. Every file that is brought is
    compared with its manifest. Returns the cache that each layer with new shards came from, by the
    layer's folder.
    """
    came: dict[str, Path] = {}
    kinds = shared_kinds(plan.recipe, [layer.kind for layer in plan.layers])
    wanted = {layer.id: layer for layer in plan.layers if layer.kind in kinds}
    for other in others:
        for found in _layers_of(other, wanted):
            lacking = set(range(found.num_shards)) - set(committed_shards(cache, found))
            shards = lacking & set(committed_shards(other, found))
            if not shards or not same_code(other, found):
                continue
            note_code(cache, [found])
            for shard in sorted(shards):
                with suppress(CacheError):  # damaged there: computed here
                    if not read_manifest(other, found, shard).bad:
                        _bring(other, cache, found, shard)
                        came.setdefault(found.folder, other)
    return came


def caches_beside(cache: Path) -> list[Path]:
    """The caches in the folder that `cache` lies in, itself left out."""
    own = cache.resolve()
    found = (path.parent for path in sorted(own.parent.glob(f"*/{PLAN}")))
    return [path for path in found if path != own]


def copy_cache(cache: Path, out: Path, kinds: Sequence[str] = ()) -> Plan:
    """Copy the plan of a cache, with the layers of `kinds` (none: all), to the new folder `out`.

    Whole layers only; further views are left. Every byte is compared with its manifest. Returns
    the plan of the copy: another one where optional layers stay behind.

    Raises CacheError if the cache is not complete, ConfigError for a kind that it lacks or that no
    plan can do without.
    """
    plan = Plan.load(cache / PLAN)
    have = [layer.kind for layer in plan.layers]
    if unknown := [kind for kind in kinds if kind not in have]:
        raise ConfigError(f"{show(unknown[0])}: {show(str(cache), 300)} has {', '.join(have)}")
    if not is_complete(cache, plan):
        raise CacheError(
            f"{show(str(cache), 300)}: not complete: run the same `svp precompute` again first"
        )
    kept = without(plan, [kind for kind in have if kinds and kind not in kinds])
    create_cache(out, kept)
    for layer in kept.layers:
        for shard in sorted(set(range(layer.num_shards)) - set(committed_shards(out, layer))):
            _bring(cache, out, layer, shard, link=False)
    copy_places(cache, out)
    finalize(out, kept, read_committed(out, kept))
    return kept


def drop_layers(cache: Path, named: Sequence[str]) -> list[str]:
    """Delete layers by folder (`sam/vit_h`) or kind; returns the folders that are gone.

    Plans that read a dropped layer go as well; plan.json is replaced by the oldest view that does
    not read one, else by itself without it. What no plan reads any more is deleted.

    Raises ConfigError for a layer that is not there, or without which nothing would be left.
    """
    plans = all_plans(cache)
    folders = {layer.folder: layer.kind for plan in plans.values() for layer in plan.layers}
    # What an interrupted drop has left is no plan's any more, but lies there.
    folders |= {f"{kind}/{path.name}": kind for kind in KINDS for path in (cache / kind).glob("*/")}
    doomed = {folder for folder, kind in folders.items() if folder in named or kind in named}
    for name in named:
        if name not in folders and name not in folders.values():
            raise ConfigError(
                f"{show(name)}: {show(str(cache), 300)} has no such layer; it has "
                + ", ".join(sorted(folders))
            )
    left = {path: plan for path, plan in plans.items() if not _reads(plan, doomed)}
    main = cache / PLAN
    if main not in left:
        view, heir = next(iter(left.items()), (main, None))
        if heir is None:
            heir = without(plans[main], [folders[folder] for folder in doomed])
        heir.save(cache)
        left.pop(view, None)  # it is plan.json now
    for path in plans:
        if path != main and path not in left:
            path.unlink()
    if (cache / VIEWS).is_dir():
        sync_folder(cache / VIEWS)
    there = {layer.folder for layer in layers_in(cache)}
    gone = sorted(set(folders) - there)
    for folder in gone:
        # The name that makes it a layer goes first: half of it must not be taken for one.
        (cache / folder / LAYER).unlink(missing_ok=True)
        with writing(cache / folder):
            shutil.rmtree(cache / folder)
    return gone


def without(plan: Plan, kinds: Sequence[str]) -> Plan:
    """`plan` less its layers of `kinds`. Raises ConfigError for one that no plan can do without."""
    if needed := sorted(set(kinds) - {*OPTIONAL}):
        raise ConfigError(
            f"no cache can do without its {needed[0]}; layers that can go are {', '.join(OPTIONAL)}"
        )
    features, recipe = plan.recipe.features, plan.recipe
    if POOLED in kinds and features.stored == "mean+int4":
        raise ConfigError("the features are stored as what they differ by from pooled: keep both")
    if POOLED in kinds:
        features = features.model_copy(update={"pooled": False})
    if CLS in kinds:
        features = features.model_copy(update={"cls": False})
    if LAYERS in kinds:
        features = features.model_copy(update={"layers": (), "second": None})
    recipe = recipe.model_copy(update={"features": features})
    if SAM in kinds:
        recipe = recipe.model_copy(update={"store_sam_embeddings": False, "sam_stored": "float16"})
    return replace(plan, recipe=recipe, sam=None if SAM in kinds else plan.sam)


def _reads(plan: Plan, folders: set[str]) -> bool:
    return any(layer.folder in folders for layer in plan.layers)


def _layers_of(cache: Path, wanted: dict[str, Layer]) -> Iterator[Layer]:
    """Those of the wanted layers that a folder holds; none if it is no readable cache."""
    try:
        for layer in layers_in(cache):
            if layer.id in wanted:
                yield wanted[layer.id]
    except SvpError:
        return


def _bring(source: Path, cache: Path, layer: Layer, shard: int, *, link: bool = True) -> None:
    """A shard of a layer from `source`, its manifest last. Raises CacheError if it is damaged."""
    manifest: Manifest = read_manifest(source, layer, shard)
    if bad := [*damaged_files(source, layer, manifest)]:
        raise CacheError(f"{show(str(source), 300)}: {layer.folder}: {bad[0]} of shard {shard}")
    sources = {spec: shard_path(source, spec, shard) for spec in layer.arrays}
    place_files(source, sources, manifest.files, cache, shard, link=link)
    path = manifest_path(cache, layer.folder, shard)
    make_folder(path.parent, cache)
    write_file(path, manifest.data(), label=f"manifest-{layer.kind}", shard=shard)


def place_files(
    source: Path,
    files: Mapping[ArraySpec, Path],
    wanted: Mapping[str, FileEntry],
    cache: Path,
    shard: int,
    *,
    link: bool = True,
) -> None:
    """Shard files from below `source` in their places in `cache`, durable on return.

    files   by array; each is compared with the entry of its name in `wanted`
    link    True: links where the file system can, else copies

    Raises CacheError if a file is missing, a symbolic link, or has other bytes.
    """
    folders: set[Path] = set()
    for spec, old in files.items():
        refuse_links(source, old)
        if not old.is_file() or file_digest(old) != wanted[spec.name].xxh3:
            raise CacheError(f"{show(str(old), 300)}: bytes differ from the manifest's xxh3_64")
        new = shard_path(cache, spec, shard)
        make_folder(new.parent, cache)
        _place(old, new, link)
        folders |= {new.parents[level] for level in range(len(spec.row) + 4)}
    for folder in sorted(folders):
        sync_folder(folder)


def _place(old: Path, new: Path, link: bool) -> None:
    """`new` with the bytes of `old`: a link where the file system can, else a copy."""
    temp = new.with_name(f"{new.name}.bring-{os.getpid()}.partial")
    with writing(new):
        temp.unlink(missing_ok=True)
        try:
            if not link:
                raise OSError
            os.link(old, temp, follow_symlinks=False)
        except OSError:
            shutil.copyfile(old, temp)
            with temp.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(temp, new)
        temp.unlink(missing_ok=True)  # two links to one file are not replaced but left
