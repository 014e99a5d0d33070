"""Machine facts for `svp doctor` and the cost model: versions, devices, memory, disk.

Nothing here fails on a machine that lacks something: absence is a fact too.
"""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

GB = 1e9
LEAST_FREE = 2e9  # bytes of memory or disk under which even the embedded default may not finish
LEAST_SHM = 128 << 20  # Docker's default of 64 MiB makes Ray and DataLoader workers fail


@dataclass(frozen=True, slots=True)
class Package:
    """One requirement of `svp` and what is installed."""

    name: str
    status: Literal["ok", "note", "bad"]
    detail: str


def python() -> tuple[str, bool]:
    """Version and platform, and whether it is one `svp` supports."""
    text = f"{platform.python_version()} ({platform.platform(terse=True)})"
    return text, sys.version_info >= (3, 11)


def packages(distribution: str = "svp") -> Iterator[Package]:
    """Installed versions against the floors of the package's own metadata.

    A missing package of an extra is a note, any other one is bad; so is a version under its floor:
    most floors close a security hole. The `dev` extra is left out.
    """
    from packaging.requirements import Requirement

    try:
        requirements = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        yield Package(distribution, "bad", "not installed, floors unknown: pip install -e .")
        return
    for text in requirements:
        wanted = Requirement(text)
        extra = _extra_of(text)
        if wanted.name == distribution or extra == "dev":
            continue
        yield _package(wanted.name, wanted.specifier, extra)


def extra_with(package: str, distribution: str = "svp") -> str:
    """The extra that brings a package to users, "" if none does."""
    from packaging.requirements import Requirement

    try:
        requirements = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return ""
    extras = [_extra_of(text) for text in requirements if Requirement(text).name == package]
    return next((extra for extra in extras if extra not in ("", "dev", "docs")), "")


def devices() -> Iterator[tuple[str, str]]:
    """CPU cores this process may use, threads per process, and every accelerator."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    omp = os.environ.get("OMP_NUM_THREADS", "unset")
    yield "cpu", f"{cores} cores, torch uses {torch.get_num_threads()}, OMP_NUM_THREADS {omp}"
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            one = torch.cuda.get_device_properties(index)
            yield f"cuda:{index}", f"{one.name}, {one.total_memory / GB:.1f} GB"
    elif torch.backends.mps.is_available():
        yield "mps", "Apple GPU"
    else:
        yield "gpu", "none: the paper's models need one for a whole data set"


def memory() -> Iterator[tuple[str, str, bool]]:
    """Name, text, and whether it is enough: RAM (and a container's limit), /dev/shm."""
    import psutil

    ram = psutil.virtual_memory()
    limit = _container_limit()
    text = f"{ram.available / GB:.1f} GB free of {ram.total / GB:.1f} GB"
    if limit and limit < ram.total:
        text += f", this container may use {limit / GB:.1f} GB"
    yield "memory", text, ram.available >= LEAST_FREE
    shm = Path("/dev/shm")
    if shm.is_dir():
        disk = shutil.disk_usage(shm)
        fine = disk.free >= LEAST_SHM
        advice = "" if fine else ": Ray needs more (docker run --shm-size=1g)"
        yield "/dev/shm", f"{disk.free / GB:.2f} GB free of {disk.total / GB:.2f} GB{advice}", fine


def space(folder: Path) -> Iterator[tuple[str, str, bool]]:
    """Free disk at `folder`, or at the nearest folder above it that exists."""
    place = folder.absolute()
    while not place.is_dir() and place != place.parent:
        place = place.parent
    disk = shutil.disk_usage(place)
    text = f"{disk.free / GB:.1f} GB free of {disk.total / GB:.1f} GB at {place}"
    if not os.access(place, os.W_OK):
        yield "disk", f"{text}, but it cannot be written", False
    else:
        yield "disk", text, disk.free >= LEAST_FREE


def _package(name: str, floor: object, extra: str) -> Package:
    from packaging.specifiers import SpecifierSet

    needed = f"needs {floor}" if str(floor) else "any version"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        if extra:
            return Package(name, "note", f"not installed: pip install 'svp[{extra}]' brings it")
        return Package(name, "bad", f"not installed, {needed}: pip install svp again")
    if not SpecifierSet(str(floor)).contains(version, prereleases=True):
        return Package(name, "bad", f"{version}, {needed}: pip install -U {name}")
    return Package(name, "ok", f"{version} ({needed})")


def _extra_of(requirement: str) -> str:
    """The extra a requirement belongs to: setuptools writes `...; extra == "ray"`."""
    marker = requirement.partition(";")[2]
    return marker.rpartition("extra ==")[2].strip(" \"')") if "extra ==" in marker else ""


def _container_limit() -> int:
    """Memory limit of the cgroup in bytes, 0 where there is none."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (Path("/sys/fs/cgroup") / name).read_text().strip()
        except OSError:
            continue
        return int(text) if text.isdecimal() else 0
    return 0
