"""Copy a folder of photographs to an address."""

from pathlib import Path

from svp.pipeline.store import open_store


def upload(folder: Path, address: str) -> Path:
    """The files of `folder` as objects below `address`; the address as a root of photographs."""
    store = open_store(address)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            store.replace(path.relative_to(folder).as_posix(), path.read_bytes())
    return Path(address)
