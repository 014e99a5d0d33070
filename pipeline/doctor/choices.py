"""Choices of a recipe: superpixels, SAMs, encoders, data formats, executors.

One line each: what it needs (a package, weights, a licence to accept) and whether that is there. Those
of plug-ins are among them. Parts that this package may not import (language models, projectors) are
told by the command.
"""

from collections.abc import Callable, Iterable, Iterator
from importlib import metadata

from .. import plugins
from ..display import counted, show
from ..errors import SvpError, describe
from ..fetch.encoder_specs import ENCODERS, EncoderSpec
from ..fetch.sam_specs import SAMS, SamSpec
from ..weights.locate import search_weights
from .machine import extra_with
from .report import Finding


def choices() -> Iterator[Finding]:
    """The choices of a cache's recipe, by area. What is not there is a note: nothing asked for it."""
    from .. import recipe  # noqa: F401  it attaches the tables of models to the plug-ins' groups
    from ..datasets.detect import FORMATS, LOOKED_FOR, PACKAGES
    from ..executors import EXECUTORS
    from ..superpixels.external import BUILT_IN, METHODS

    ways = {
        "sam": "prompts one of the SAMs below on a grid",
        "mobile_sam": "prompts vit_t on a grid",
        "slic": "scikit-image's, without weights",
        "masks": "files of your own: --masks FOLDER",
    }
    needed = {"slic": ("scikit-image",), "mobile_sam": SAMS["vit_t"].packages}
    yield from area("superpixel sources", plugins.SUPERPIXELS, lambda: (
        choice("superpixel sources", name, ways.get(name, _own(METHODS.get(name))),
               packages=needed.get(name, ()))
        for name in (*BUILT_IN, *METHODS)
    ))  # fmt: skip
    yield from area("SAMs", plugins.SAMS, lambda: map(_sam, SAMS.values()))
    yield from area("encoders", plugins.ENCODERS, lambda: map(_encoder, ENCODERS.values()))
    yield from area("data formats", plugins.DATASETS, lambda: (
        choice("data formats", name, LOOKED_FOR.get(name, _own(reader)),
               packages=PACKAGES.get(name, ()))
        for name, reader in FORMATS.items()
    ))  # fmt: skip
    runs = {"local": "processes of this machine", "ray": "a Ray cluster", "dask": "a Dask cluster"}
    pools = {"ray": ("ray",), "dask": ("dask", "distributed")}
    yield from area("executors", plugins.EXECUTORS, lambda: (
        choice("executors", name, runs.get(name, _own(kind)), packages=pools.get(name, ()))
        for name, kind in EXECUTORS.items()
    ))  # fmt: skip


def area(title: str, group: str, found: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Findings of `found`, once the plug-ins of `group` are registered; one that fails is a finding."""
    try:
        plugins.find_all(group)
    except SvpError as error:
        yield Finding(title, "plug-ins", "bad", describe(error))
    yield from found()


def choice(
    title: str, name: str, about: str, *, packages: Iterable[str] = (), lacks: str = ""
) -> Finding:
    """One line: `about` it, then what of `packages` and else (`lacks`) is not there."""
    missing = [*(_missing(one) for one in packages), lacks]
    detail = "; ".join(part for part in (about, *missing) if part)
    return Finding(title, name, "note" if any(missing) else "ok", detail)


def _sam(row: SamSpec) -> Finding:
    package = f"--set superpixels.package={row.package}" if row.package else ""
    source = "" if row.source == "sam" else f"--superpixels {row.source}"
    how = ", ".join(part for part in (source, package) if part)
    return _model("SAMs", row, how, "--sam-weights", row.terms and f"accept {row.terms} first",
                  packages=row.packages)  # fmt: skip


def _encoder(row: EncoderSpec) -> Finding:
    licence = f", {row.licence}" if row.licence else ""
    how = f"{counted(row.hidden, 'channel')}, {row.size} px, patches of {row.patch}{licence}"
    return _model("encoders", row, how, "--encoder-weights", row.access, packages=row.packages)


def _model(
    title: str,
    row: SamSpec | EncoderSpec,
    how: str,
    flag: str,
    access: str,
    packages: Iterable[str] = (),
) -> Finding:
    """A model's line: where its weights are, or how they are got."""
    if row.shipped:
        place, lacks = "weights in this package", ""
    elif (found := search_weights(row.name)) is not None:
        place, lacks = f"weights at {show(str(found), 300)}", ""
    elif not (row.files or row.hub or row.remote):
        place, lacks = f"no published weights: {flag} random or PATH", ""
    else:
        command = f"svp fetch {row.remote.name}" if row.remote else f"hf download {row.hub}"
        get = f"`{command}`" if row.remote or row.hub else ""
        if row.remote and row.remote.doubt:
            pin = "; --revision COMMIT pins them" * any(file.moves for file in row.remote.files)
            get += f" ({row.remote.doubt}{pin})"
        size = f"{row.gigabytes:.2f} GB"
        ways = f"{get} or {flag} PATH" if get else f"{flag} PATH"
        place, lacks = "", f"weights not found ({size}): {ways}"
        lacks += f". {access}" if access else ""
    about = ", ".join(part for part in (how, place) if part)
    return choice(title, row.name, about, packages=packages, lacks=lacks)


def _missing(package: str) -> str:
    """Advice for a package that is not installed, "" for one that is."""
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        extra = extra_with(package)
        get = f"pip install 'svp[{extra}]'" if extra else f"pip install {package}"
        return f"needs {package}, which is not installed: {get}"
    return ""


def _own(found: object) -> str:
    """The first line of what a plug-in says of itself."""
    code = getattr(found, "code", found)
    said = (getattr(code, "__doc__", None) or "").strip().splitlines()
    return f"plug-in: {said[0]}" if said else "plug-in"
