"""Another writer of a shard, whose bytes are others, as on another kind of GPU."""

from collections.abc import Callable
from pathlib import Path

from support import fake_run
from svp.pipeline.store import open_store

WHO = "elsewhere, process 12345678-1, A100"


def other_writer(cache: Path, images: Path, shard: int) -> Callable[[], None]:
    """Make the files of a shard as a writer does that refuses its first image.

    `cache` is of `fake_run` and loses its own files of the shard, and its indices. The manifests
    are made by the call of what is returned. `elsewhere/<cache>` is a whole cache of that writer: beside
    `cache` it would take what is there.
    """
    refused = str(shard * fake_run.SHARD + 1)
    theirs = cache.parent / "elsewhere" / cache.name
    fake_run.run(theirs, images, told={"faults": {refused: "refuse"}})
    other, store = open_store(theirs), open_store(cache)
    keys = [k for k, _ in other.sizes() if f"/manifest/{shard}.json" in k or f"/c/{shard}/" in k]
    for key, _ in [*store.sizes()]:
        if key in keys or key.endswith(("COMPLETE", "index.json")):
            store.delete(key)

    def make(part: str) -> None:
        for key in (key for key in keys if part in key):
            store.create(key, [other.read(key, 1 << 20)], who=WHO)

    make("/c/")
    return lambda: make("/manifest/")
