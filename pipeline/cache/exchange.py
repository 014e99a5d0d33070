"""Take layers of caches apart and together: reuse, drop, copy.

A layer is equal in every cache whose image list, settings and code are equal, byte for byte, so it
is linked from where it lies (copied over file systems) instead of being computed again.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..display import show
from ..errors import CacheError, ConfigError, MissingError, SvpError
from ..store import FolderStore, Place, Store, open_store, pieces
from .create import create_cache
from .index import finalize, is_complete
from .layers import CLS, KINDS, LAYERS, ORDER, POOLED, SAM, Layer
from .layout import (
    COMPLETE,
    INDEX,
    LAYER,
    MANIFESTS,
    PLAN,
    exists,
    manifest_key,
    shard_key,
    snapshot_folder,
)
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
from .plan import Plan, all_plans, chosen_view
from .schema import ArraySpec
from .thin import make_thin_shard, require_source, thin_plan
from .verify import layers_in

OPTIONAL = (POOLED, LAYERS, CLS, SAM, ORDER)  # kinds that a plan can do without


def reuse(cache: Place, plan: Plan, others: Iterable[Path]) -> dict[str, Path]:
    """Bring what other caches have of the plan's layers into `cache`; safe to repeat.

    The cache must have been created. Only layers that the same code made are taken, and of them no
    shard with a quarantined image: that image is tried again here. Every file that is brought is
    compared with its manifest. Returns the cache that each layer with new shards came from, by the
    layer's folder.
    """
    came: dict[str, Path] = {}
    store = open_store(cache)
    kinds = shared_kinds(plan.recipe, [layer.kind for layer in plan.layers])
    wanted = {layer.id: layer for layer in plan.layers if layer.kind in kinds}
    for other in others:
        source = open_store(other)
        for found in _layers_of(source, wanted):
            lacking = set(range(found.num_shards)) - set(committed_shards(store, found))
            shards = lacking & set(committed_shards(source, found))
            if not shards or not same_code(source, found):
                continue
            note_code(store, [found])
            for shard in sorted(shards):
                with suppress(CacheError):  # damaged there: computed here
                    if not read_manifest(source, found, shard).bad:
                        _bring(source, store, found, shard)
                        came.setdefault(found.folder, other)
    return came


def caches_beside(cache: Place) -> list[Path]:
    """The caches in the folder that `cache` lies in, itself left out; none of one on an object store."""
    if not isinstance(cache, Path):
        return []
    own = cache.resolve()
    found = (path.parent for path in sorted(own.parent.glob(f"*/{PLAN}")))
    return [path for path in found if path != own]


def copy_cache(cache: Place, out: Place, kinds: Sequence[str] = (), *, thin: bool = False) -> Plan:
    """Copy a cache to the new place `out`: all of its plans, or one of them.

    Whole layers only. Every byte is compared with its manifest. Returns the plan in the copy's
    plan.json: another one where optional layers stay behind.

    kinds  of the layers of one plan, the oldest that has them; none: all plans
    thin   the copy's thin form, of the oldest plan that it can be made of, with SAM's embeddings where
           a plan has these; what the cache does not have so is made of its float16 rows

    Raises CacheError if what is to be copied is not complete, ConfigError for kinds that no plan has
    or that it cannot do without, or for features in fewer bits that the means are to be made of.
    """
    source, target = open_store(cache), open_store(out)
    if not (kinds or thin):
        plans = [*all_plans(source).values()]
        for plan in plans:
            _require_complete(source, plan)
        for number, plan in enumerate(plans):
            _copy_plan(source, plan, target, plan, view=number > 0)
        kept = plans[0]
    else:
        checks = [partial(require_source, source)] if thin else []
        checks.append(partial(_require_kinds, source, kinds, thin))
        # Training reads SAM's embeddings, which a later plan may have added.
        wish = [] if kinds else [partial(_require_kinds, source, [SAM], thin)]
        plan = Plan.load(source, chosen_view(source, *checks, *wish))
        if wish and plan.sam is None:
            plan = Plan.load(source, chosen_view(source, *checks))
        for check in checks:
            check(plan)
        _require_complete(source, plan)
        whole = thin_plan(plan) if thin else plan
        have = [layer.kind for layer in whole.layers]
        kept = without(whole, [kind for kind in have if kinds and kind not in kinds])
        _copy_plan(source, plan, target, kept)
    copy_places(source, target)
    return kept


def _require_kinds(cache: Store, kinds: Sequence[str], thin: bool, plan: Plan) -> None:
    """ConfigError unless a plan, or its thin form, has layers of these kinds."""
    have = [layer.kind for layer in (thin_plan(plan) if thin else plan).layers]
    if unknown := [kind for kind in kinds if kind not in have]:
        raise ConfigError(f"{show(unknown[0])}: {show(cache.where(), 300)} has {', '.join(have)}")


def _require_complete(cache: Store, plan: Plan) -> None:
    if not is_complete(cache, plan):
        raise CacheError(
            f"{show(cache.where(), 300)}: not complete: run the same `svp precompute` again first"
        )


def _copy_plan(source: Store, plan: Plan, target: Store, kept: Plan, *, view: bool = False) -> None:
    """Make `kept` in `target` of the layers of `plan` in `source`; what is not there is thin."""
    there = {layer.id for layer in plan.layers}
    made = [layer for layer in kept.layers if layer.id not in there]
    create_cache(target, kept, view=view)
    for shard in range(kept.num_shards) if made else ():
        lacking = [layer for layer in made if not exists(target, manifest_key(layer.folder, shard))]
        if lacking:
            make_thin_shard(source, plan, target, kept, shard, lacking)
    for layer in kept.layers:
        if layer in made:
            continue
        for shard in sorted(set(range(layer.num_shards)) - set(committed_shards(target, layer))):
            _bring(source, target, layer, shard, link=False)
    finalize(target, kept, read_committed(target, kept))


def drop_layers(cache: Place, named: Sequence[str]) -> list[str]:
    """Delete layers by folder (`sam/vit_h`) or kind; returns the folders that are gone.

    Plans that read a dropped layer go as well; plan.json is replaced by the oldest view that does
    not read one, else by itself without it. What no plan reads any more is deleted.

    Raises ConfigError for a layer that is not there, or without which nothing would be left.
    """
    store = open_store(cache)
    plans = all_plans(store)
    folders = {layer.folder: layer.kind for plan in plans.values() for layer in plan.layers}
    # What an interrupted drop has left is no plan's any more, but lies there.
    for kind in KINDS:
        below = {key.split("/")[1] for key, _ in store.sizes(kind) if key.count("/") > 1}
        folders |= {f"{kind}/{name}": kind for name in below}
    doomed = {folder for folder, kind in folders.items() if folder in named or kind in named}
    for name in named:
        if name not in folders and name not in folders.values():
            raise ConfigError(
                f"{show(name)}: {show(str(cache), 300)} has no such layer; it has "
                + ", ".join(sorted(folders))
            )
    left = {
        view: plan
        for view, plan in plans.items()
        # A view that is plan.json already was left by an interrupted drop.
        if not _reads(plan, doomed) and (view == PLAN or plan.id != plans[PLAN].id)
    }
    if PLAN not in left:
        view, heir = next(iter(left.items()), (PLAN, None))
        if heir is None:
            heir = without(plans[PLAN], [folders[folder] for folder in doomed])
        heir.save(store)
        left.pop(view, None)  # it is plan.json now
    for view in plans:
        if view != PLAN and view not in left:
            store.delete(view)
    there = {layer.folder for layer in layers_in(store)}
    gone = sorted(set(folders) - there)
    for folder in gone:
        # The name that makes it a layer goes first: half of it must not be taken for one. Nor may
        # half of it be vouched for, if this is interrupted and the layer is made again.
        for name in (LAYER, COMPLETE, INDEX):
            store.delete(f"{folder}/{name}")
        store.delete_below(snapshot_folder(folder))
        store.delete_below(f"{folder}/{MANIFESTS}")
        store.delete_below(folder)
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
    if POOLED in kinds and features.thin:
        raise ConfigError("pooled is all that a thin cache has of the features: keep it")
    if POOLED in kinds:
        features = features.model_copy(update={"pooled": False})
    if CLS in kinds:
        features = features.model_copy(update={"cls": False})
    if LAYERS in kinds:
        features = features.model_copy(update={"layers": (), "second": None})
    recipe = recipe.model_copy(update={"features": features})
    if {ORDER, POOLED} & set(kinds):  # it is made of the means
        recipe = recipe.model_copy(update={"order": None})
    if SAM in kinds:
        recipe = recipe.model_copy(update={"store_sam_embeddings": False, "sam_stored": "float16"})
    return replace(plan, recipe=recipe, sam=None if SAM in kinds else plan.sam)


def _reads(plan: Plan, folders: set[str]) -> bool:
    return any(layer.folder in folders for layer in plan.layers)


def _layers_of(cache: Store, wanted: dict[str, Layer]) -> Iterator[Layer]:
    """Those of the wanted layers that a store holds; none if it is no readable cache."""
    try:
        for layer in layers_in(cache):
            if layer.id in wanted:
                yield wanted[layer.id]
    except SvpError:
        return


def _bring(source: Store, cache: Store, layer: Layer, shard: int, *, link: bool = True) -> None:
    """A shard of a layer from `source`, its manifest last. Raises CacheError if it is damaged."""
    manifest: Manifest = read_manifest(source, layer, shard)
    if bad := damaged_files(source, layer, [manifest]):
        raise CacheError(f"{source.where()}: {layer.folder}: {bad[shard][0]} of shard {shard}")
    files = {spec: shard_key(spec, shard) for spec in layer.arrays}
    place_files(source, files, manifest.files, cache, shard, link=link)
    key = manifest_key(layer.folder, shard)
    cache.create(key, [manifest.data()], label=f"manifest-{layer.kind}", shard=shard)


def place_files(
    source: Store,
    files: Mapping[ArraySpec, str],
    wanted: Mapping[str, FileEntry],
    cache: Store,
    shard: int,
    *,
    link: bool = True,
) -> None:
    """Shard files of `source` in their places in `cache`, durable on return.

    files   key by array; each is compared with the entry of its name in `wanted`
    link    True: links where the file system can, else copies

    Raises CacheError if a file is missing, a symbolic link, or has other bytes.
    """
    for spec, old in files.items():
        try:
            size, digest = source.digest(old)
        except MissingError:
            digest = ""
        if digest != wanted[spec.name].xxh3:
            raise CacheError(f"{source.where(old)}: bytes differ from the manifest's xxh3_64")
        new = shard_key(spec, shard)
        own = source.path(old) if link and isinstance(source, FolderStore) else None
        if own and isinstance(cache, FolderStore) and cache.link(own, new):
            continue
        cache.create(new, [*pieces(source, old, size)], label="bring", shard=shard)
