"""Strict, bounded YAML for recipes: safe tags only, no aliases, limited size and depth.

What is read is plain data; whether its fields exist and make sense is decided by the recipe's own
model. The invariant: no file can run code, refer to itself, or take unbounded memory.
"""

import copy
import importlib.resources
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ..display import show
from ..errors import ConfigError, MissingError

MAX_BYTES = 1 << 20
MAX_DEPTH = 16
# What PyYAML's constructors let through for a text that does not fit its tag: `!!int ''` is an
# IndexError, `!!bool x` a KeyError, `!!timestamp x` an AttributeError.
_UNFIT = (ValueError, IndexError, KeyError, AttributeError, TypeError, OverflowError)


def shipped_yaml(kind: str, name: str) -> dict[str, Any]:
    """The recipe `workflows/<kind>/<name>.yaml` of this package; ConfigError lists what there is."""
    folder = importlib.resources.files("svp").joinpath(f"workflows/{kind}")
    names = sorted(f.name[: -len(".yaml")] for f in folder.iterdir() if f.name.endswith(".yaml"))
    if name not in names:
        raise ConfigError(f"recipe {show(name)}: allowed are {', '.join(names)}")
    text = folder.joinpath(f"{name}.yaml").read_text("utf-8")
    return copy.deepcopy(_shipped(text, f"workflows/{kind}/{name}.yaml"))


@cache
def _shipped(text: str, where: str) -> dict[str, Any]:
    return parse_yaml(text, where)


def load_yaml(path: Path) -> dict[str, Any]:
    """A recipe file. Raises MissingError, ConfigError."""
    if not path.is_file():
        raise MissingError(f"recipe {show(str(path))} is not a file")
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError(f"recipe {show(str(path))}: larger than {MAX_BYTES} bytes")
    try:
        return parse_yaml(path.read_text("utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"recipe {show(str(path))}: not UTF-8 ({error.reason})") from None


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """The mapping in `text`; `where` names it in the ConfigError if it is something else."""
    try:
        raw = _Loader(text).get_single_data()
    except (yaml.YAMLError, *_UNFIT) as error:
        raise ConfigError(f"recipe {show(where)}: {show(str(error), 300)}") from None
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise ConfigError(f"recipe {show(where)}: want a mapping of fields, got {show(raw)}")
    return raw


def group(raw: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    """The fields of group `name` of a recipe, made if it is not there. ConfigError if it is none."""
    value = raw.setdefault(name, {})
    if not isinstance(value, dict):
        raise ConfigError(f"recipe {show(where)}: {name}={show(value)}: want a mapping of fields")
    return value


@dataclass(frozen=True, slots=True)
class Override:
    """One field of a recipe and the value it is set to; its text is what `--set` takes.

    path  names by dots; a number is an index of a list: `stages.0.steps`
    """

    path: str
    value: Any

    @classmethod
    def parse(cls, assignment: str) -> "Override":
        """`a.b=value` of `--set`; the value is YAML. Raises ConfigError."""
        name, equals, text = assignment.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set {show(assignment)}: want a.b=value")
        return cls(name, parse_yaml(f"value: {text}", f"--set {assignment}")["value"])

    def __str__(self) -> str:
        plain = isinstance(self.value, str) and _reads_as_itself(self.value)
        return f"{self.path}={self.value if plain else json.dumps(self.value)}"

    def __hash__(self) -> int:
        return hash(str(self))

    def apply(self, raw: dict[str, Any]) -> None:
        """Set the field in a recipe's plain data, of which the value becomes no part.

        Raises ConfigError for a path through what is no group of fields.
        """
        *parents, leaf = self.path.split(".")
        node: Any = raw
        for part in parents:
            node = self._child(node, part)
        value = copy.deepcopy(self.value)
        if isinstance(node, list):
            node[self._index(node, leaf)] = value
        else:
            node[leaf] = value

    def _child(self, node: Any, part: str) -> Any:
        child = (
            node[self._index(node, part)] if isinstance(node, list) else node.setdefault(part, {})
        )
        if not isinstance(child, dict | list):
            raise ConfigError(f"--set {show(str(self))}: {show(part)} is not a group of fields")
        return child

    def _index(self, node: list[Any], part: str) -> int:
        if not part.isdecimal() or int(part) >= len(node):
            raise ConfigError(
                f"--set {show(str(self))}: {show(part)}: want a number from 0 to {len(node) - 1}"
            )
        return int(part)


def override_of(given: "str | Override") -> Override:
    """Override of a recipe field, from `--set` text or a Python value. Raises ConfigError."""
    return Override.parse(given) if isinstance(given, str) else given


def _reads_as_itself(text: str) -> bool:
    try:
        return bool(_Loader(text).get_single_data() == text)
    except (yaml.YAMLError, *_UNFIT):
        return False


class _Loader(yaml.SafeLoader):
    """SafeLoader without aliases (they allow exponential blow-up) and with bounded depth."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.YAMLError(f"nested deeper than {MAX_DEPTH}")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node
