"""What the state machines of the cache do to it, and what they ask of it, against a `Golden`.

Each function takes the cache's folder, the golden cache of the plan that is meant, and, where it
judges, `now`: the files that are there (`cache_model.contents`).
"""

from collections.abc import Collection, Mapping
from pathlib import Path

from support.cache_model import Golden, Part, contents, everything, manifest
from svp.pipeline.cache import (
    CacheReader,
    create_cache,
    finalize,
    missing_shards,
    read_committed,
    repair,
    write_shard,
)
from svp.pipeline.cache.layout import COMPLETE, INDEX, PLAN
from svp.pipeline.cache.made_by import note_code
from svp.pipeline.cache.verify import uncommit_damaged
from svp.pipeline.errors import CacheError
from svp.pipeline.store import OtherBytesError, open_folder

Files = Mapping[str, bytes]


def write(cache: Path, golden: Golden, shard: int, folders: Collection[str]) -> bool:
    """Write the layers in `folders` of a shard.

    False if a damaged file is in the way: it may be another writer's, so it is not replaced.
    """
    layers = [layer for layer in golden.plan.layers if layer.folder in folders]
    rows, now = golden.shard_rows(shard), contents(cache)
    wrong = {name for name in golden.shard_files(shard) if golden.differs(name, now)}
    try:
        written = write_shard(cache, golden.plan, shard, rows, {"seconds": 0.1}, layers)
    except OtherBytesError:
        assert wrong & now.keys(), "refused though every file there is sound"
        return False
    assert [*written] == [layer.folder for layer in layers]
    return True


def resume(cache: Path, golden: Golden, *, view: bool = False) -> None:
    """What the command does, without the models (pipeline/precompute/run.py)."""
    plan = golden.plan
    create_cache(cache, plan, view=view)
    expected = {part for part in golden.parts if not resumable(cache, golden, part)}
    committed = read_committed(cache, plan, snapshot=True)
    todo = missing_shards(cache, plan, committed)
    parts = {(layer.folder, shard) for shard, layers in todo.items() for layer in layers}
    assert parts == expected, "a sound part made twice, or a damaged one taken for whole"
    uncommit_damaged(cache, committed, todo)
    note_code(cache, {layer for layers in todo.values() for layer in layers})
    for shard, layers in todo.items():
        if not write(cache, golden, shard, {layer.folder for layer in layers}):
            repair(cache)  # deletes what no manifest names, as the message says
            return resume(cache, golden, view=view)
    if todo or not all(complete(cache, folder) for folder in golden.folders):
        open_folder(cache).tidy()
        finalize(cache, plan, read_committed(cache, plan, committed.without(todo), snapshot=True))


def complete(cache: Path, folder: str) -> bool:
    """Whether a layer has its mark."""
    return (cache / folder / COMPLETE).exists()


def resumable(cache: Path, golden: Golden, part: Part) -> bool:
    """Whether a resume may skip the part: manifest sound, all files of their size."""
    for name in golden.parts[part]:
        path = cache / name
        if not path.exists() or path.stat().st_size != len(golden.files[name]):
            return False
    return (cache / manifest(part)).read_bytes() == golden.files[manifest(part)]


def committed_parts(cache: Path, golden: Golden) -> set[Part]:
    """The parts that have a manifest file."""
    return {part for part in golden.parts if (cache / manifest(part)).exists()}


def whole(golden: Golden, part: Part, now: Files) -> bool:
    """Whether every file of a part is there as it must be."""
    return not any(golden.differs(name, now) for name in golden.parts[part])


def problems(cache: Path, golden: Golden, now: Files) -> set[str]:
    """The files of a plan's layers that a full verification must name."""
    bad = {name for name in golden.files if golden.differs(name, now)}
    found = bad & golden.metadata
    for part in committed_parts(cache, golden):
        # A damaged manifest vouches for nothing: its part's files cannot be judged.
        found |= {manifest(part)} if manifest(part) in bad else bad & golden.parts[part]
    for folder in golden.folders:
        if complete(cache, folder):
            records = {manifest(part) for part in golden.parts if part[0] == folder}
            found |= records - now.keys()
            index, mark = f"{folder}/{INDEX}", f"{folder}/{COMPLETE}"
            found |= {index} if bad & {index, mark} else bad & golden.columns[folder]
    return found


def read_rows(cache: Path, golden: Golden, now: Files, view: str = PLAN) -> None:
    """Every row reads as the golden bytes or is refused, and that only if a file of it is wrong."""
    trusted = {view} if view != PLAN else set[str]()
    for folder in golden.folders:
        if complete(cache, folder):
            trusted |= {f"{folder}/{INDEX}", f"{folder}/{COMPLETE}"}
            trusted |= {name for name in golden.columns[folder] if "/k/" in name}
        else:
            trusted |= {
                manifest(part) for part in committed_parts(cache, golden) if part[0] == folder
            }
    files = golden.files | {view: golden.plan.data}
    bad = {name for name in files if now.get(name) != files[name]}
    try:
        reader = CacheReader(cache, view=view, verify="always")
    except CacheError:
        assert trusted & bad, "refused though its records are sound"
        return
    assert not trusted & bad & now.keys(), "opened on a damaged record"
    assert [int(i) for i in reader.ids] == [image.image_id for image in golden.plan.images]
    parts = committed_parts(cache, golden)
    parts |= {part for part in golden.parts if complete(cache, part[0])}
    for i in range(len(golden.rows)):
        _read_row(golden, reader, i, parts, bad)


def _read_row(golden: Golden, reader: CacheReader, i: int, parts: set[Part], bad: set[str]) -> None:
    shard = i // golden.plan.shard_size
    has = [(folder, shard) in parts for folder in golden.folders]
    if golden.values[i] is None:  # quarantined: one layer's word is enough
        assert reader.status(i) == ("quarantined" if any(has) else "missing")
    else:
        assert reader.status(i) == ("ok" if all(has) else "missing")
    if reader.status(i) != "ok":
        return
    needed = golden.shard_files(shard) | {f"{spec.path}/zarr.json" for spec in golden.plan.arrays}
    try:
        assert everything(reader, i) == golden.values[i]
    except CacheError:
        assert needed & bad, f"row {i} refused, all its files sound"
