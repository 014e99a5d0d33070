"""Plug-ins: external projectors, superpixels, encoders, SAMs, languages, data formats, executors.

There are two ways. An installed package names what it has as entry points, in the group of its kind:

    [options.entry_points]
    svp.projectors =
        mean_pool = my_package.pooling:MeanPool

and `svp --plugin FILE` runs a Python file that registers its own (again for several). The files'
paths stand in the environment variable SVP_PLUGIN, so that workers and the processes of a launcher
load them too. A plug-in is code: it runs with the rights of the user who names it; nothing in a
cache, a run or an export can name one.
"""

import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

from .display import show
from .errors import ConfigError, MissingError
from .io.paths import expand

VARIABLE: Final = "SVP_PLUGIN"
PROJECTORS: Final = "svp.projectors"
SUPERPIXELS: Final = "svp.superpixels"
ENCODERS: Final = "svp.encoders"
SAMS: Final = "svp.sams"
LANGUAGES: Final = "svp.languages"
DATASETS: Final = "svp.datasets"
EXECUTORS: Final = "svp.executors"
HOW: Final = "your own: --plugin FILE, or a package with an entry point"


@dataclass(frozen=True)
class _Registry:
    """Registry of the objects of a group; by default any class of a private table."""

    table: MutableMapping[str, Any] = field(default_factory=dict)
    base: Any = object
    adapt: Callable[[object], object] = lambda found: found
    instances: bool = False
    own: Mapping[str, Any] = field(default_factory=dict)  # what `table` held when it was attached

    def fits(self, found: object) -> bool:
        """Whether a plug-in gave an object of this kind."""
        if self.instances:
            return isinstance(found, self.base)
        return isinstance(found, type) and issubclass(found, self.base)

    @property
    def wanted(self) -> str:
        """Required type of a plug-in, as text for messages."""
        how = "an instance" if self.instances else "a subclass"
        return f"{how} of {self.base.__module__}.{self.base.__qualname__}"


_REGISTRIES: dict[str, _Registry] = {}
_MODULE: Final = "svp_plugin_"  # of a file, with the digests of its path and of its text
_MADE: dict[str, list[tuple[MutableMapping[str, Any], str]]] = {}  # tables and names, by module


def attach(
    group: str,
    table: MutableMapping[str, Any],
    base: Any,
    adapt: Callable[[object], object] = lambda found: found,
    *,
    instances: bool = False,
) -> None:
    """Say where the objects of `group` are registered, and what they are.

    base       the class they inherit, or with `instances` are an instance of
    adapt      makes such an object of what an entry point may name instead
    """
    _REGISTRIES[group] = _Registry(table, base, adapt, instances, dict(table))


def lookup(group: str, name: str, known: Iterable[str] = ()) -> Any:
    """The object `name` of a group, from this package, a plug-in file or an installed package.

    group  PROJECTORS, SUPERPIXELS, ENCODERS, SAMS, LANGUAGES, DATASETS or EXECUTORS
    known  names to list beside, where this package's own registry is not imported

    Raises ConfigError (no such name, a plug-in that fails or is of another kind), MissingError (a
    file that is not there).
    """
    found = find(group, name)
    if found is None:
        table = _REGISTRIES[group].table if group in _REGISTRIES else {}
        allowed = ", ".join(sorted({*known, *table, *_names(group)}))
        raise ConfigError(f"{_kind(group)} {show(name)}: allowed are {allowed} ({HOW} {group})")
    return found


def find(group: str, name: str) -> Any:
    """As `lookup`, but None for a name that is not there."""
    load_files()
    registry = _REGISTRIES.get(group, _Registry())
    if (found := registry.table.get(name)) is None:
        installed = _installed(group, name)
        registry = _REGISTRIES.get(group, registry)  # a plug-in may have imported it
        found = registry.table.get(name) or registry.adapt(installed)
    if found is None:
        return None
    if not registry.fits(found):
        raise ConfigError(
            f"{_kind(group)} {show(name)}: its plug-in gives {show(found)}, want {registry.wanted}"
        )
    registry.table[name] = found
    return found


def find_all(group: str) -> None:
    """Register every object of a group that plug-in files and installed packages have."""
    load_files()
    for name in sorted(_names(group)):
        find(group, name)


def _kind(group: str) -> str:
    return group.removeprefix("svp.").removesuffix("s")


def load_files() -> None:
    """Run the files of SVP_PLUGIN that this process has not run yet, or not as they are now.

    Raises MissingError, ConfigError naming the file and what went wrong in it.
    """
    for path in _paths():
        place = f"{_MODULE}{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
        name = f"{place}_{_digest(path)}"
        if name not in sys.modules:
            _forget(place)
            _run(path, name)


def plugin_files() -> tuple[str, ...]:
    """The plug-in files that are named now, absolute. Raises MissingError for one that is gone."""
    return tuple(map(str, _paths()))


def plugin_words(known: Iterable[str] = ()) -> list[str]:
    """`--plugin FILE` of each named file, for a command that is printed.

    known  words of that command: a file that stands among them is left out

    Raises MissingError for a file that is gone.
    """
    have = {os.path.abspath(word.removeprefix("--plugin=")) for word in known}
    files = [os.path.relpath(file) for file in plugin_files() if file not in have]
    return [word for file in files for word in ("--plugin", file)]


@contextmanager
def plugins(files: Sequence[str]) -> Iterator[None]:
    """Plug-in files, beside those of the environment, for the time of a command and its workers.

    Raises MissingError for a file that is not there.
    """
    before = os.environ.get(VARIABLE)
    paths = [_file(expand(name)) for name in files]
    paths += [path for path in _paths() if path not in paths]
    if paths:
        os.environ[VARIABLE] = os.pathsep.join(map(str, paths))
    try:
        yield
    finally:
        if before is not None:
            os.environ[VARIABLE] = before
        elif paths:
            del os.environ[VARIABLE]


def _paths() -> list[Path]:
    words = os.environ.get(VARIABLE, "").split(os.pathsep)
    return [_file(expand(word)) for word in words if word]


def _file(path: Path) -> Path:
    if not path.is_file():
        raise MissingError(f"--plugin {show(str(path), 300)} (or {VARIABLE}): is not a file")
    return path.absolute()


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    except OSError as error:
        raise MissingError(f"--plugin {show(str(path), 300)}: {show(str(error), 200)}") from None


def _forget(place: str) -> None:
    """Drop what a file registered before it was changed."""
    for name in [name for name in sys.modules if name.startswith(place)]:
        del sys.modules[name]
        for table, key in _MADE.pop(name, ()):
            table.pop(key, None)


def _owner(kind: object) -> str:
    """Name of the module that defines a registered class or function."""
    return str(getattr(getattr(kind, "code", kind), "__module__", ""))


def _run(path: Path, name: str) -> None:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--plugin {show(str(path), 300)}: want a Python file, its name in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # classes of the file can be pickled
    before = [(found.table, dict(found.table)) for found in _REGISTRIES.values()]
    try:
        spec.loader.exec_module(module)
        # Tables that the file itself was the first to import count from their own state.
        seen = {id(table) for table, _ in before}
        before += [(r.table, dict(r.own)) for r in _REGISTRIES.values() if id(r.table) not in seen]
        for table, old in before:
            _refuse_replaced(table, old, name)
        _MADE[name] = [(t, key) for t, old in before for key in t.keys() - old.keys()]
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        for table, old in before:  # a file that fails registers nothing
            table.clear()
            table.update(old)
        why = f"{type(error).__name__}: {error}"
        raise ConfigError(f"--plugin {show(str(path), 300)}: {show(why, 500)}") from error


def _refuse_replaced(
    registry: MutableMapping[str, Any], old: MutableMapping[str, Any], name: str
) -> None:
    """Put back what the file `name` registered under a taken name. Raises ValueError."""
    for key, kind in old.items():
        owner = _owner(kind)
        gone = owner.startswith(_MODULE) and owner not in sys.modules
        if registry.get(key) is not kind and not gone and owner != name:
            registry[key] = kind
            raise ValueError(
                f"the name {show(key)} is taken by {show(owner or 'svp')}: choose another"
            )


def _installed(group: str, name: str) -> object:
    """Load the object that an entry point names, or None."""
    for point in entry_points(group=group, name=name):
        try:
            return point.load()
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            raise ConfigError(
                f"entry point {group} {show(name)} = {show(point.value)}: {show(why, 500)}"
            ) from error
    return None


def _names(group: str) -> set[str]:
    return set(entry_points(group=group).names)
