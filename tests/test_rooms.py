"""The map of the code: rooms in the order in which data passes, imports downward only, no circle."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import svp

ROOT = Path(svp.__file__).parent
# A room may import those above it in its list: docs/design.md draws them.
ROOMS = {
    "pipeline": [
        "display",
        "errors",
        "records",
        "io",
        "store",
        "process",
        "plugins",
        "fetch",
        "weights",
        "recipe",
        "masks",
        "cache",
        "datasets",
        "encoders",
        "sam",
        "superpixels",
        "executors",
        "precompute",
        "browse",
        "doctor",
        "bench",
        "commands",
    ],
    "model": [
        "batch",
        "blocks",
        "mixed_precision",
        "losses",
        "merge",
        "language",
        "llama",
        "mask_head",
        "projectors",
        "ris",
        "inference",
        "trainable",
        "conversion",
        "pretrained",
        "vlm",
    ],
    "train": [
        "cli_defaults",
        "metrics",
        "provenance",
        "distributed",
        "recipe",
        "options",
        "data",
        "warm_start",
        "factory",
        "trainer",
        "estimates",
        "evaluation",
        "runs",
        "bench",
        "figures",
        "rehearse",
        "reproduce",
        "commands",
    ],
    "integrations": [
        "mask_text",
        "lmms_eval",
        "vlmevalkit",
        "pictures",
        "coco_results",
        "fiftyone_dataset",
        "exports",
        "export_commands",
    ],
}
MOST = {"pipeline": 22, "model": 15, "train": 18, "train/reproduce": 15, "integrations": 8}


def modules() -> dict[str, Path]:
    """Every module below the packages by its dotted name."""
    found = {}
    for top in ROOMS:
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name: str) -> Iterator[str]:
    """Our modules that `name` imports, also inside functions and for types."""
    path = MODULES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            here = ".".join([*base, *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{here}.{alias.name}"
                yield inner if inner in MODULES else here


GRAPH = {name: {found for found in imports(name) if found in MODULES} - {name} for name in MODULES}


@pytest.mark.parametrize("top", ROOMS)
def test_every_entry_is_a_room_and_imports_downward(top: str) -> None:
    rooms = ROOMS[top]
    assert {name.split(".")[1] for name in MODULES if name.startswith(f"{top}.")} == set(rooms)
    upward = [
        f"{name} imports {other}"
        for name, others in GRAPH.items()
        for other in others
        if name.startswith(f"{top}.") and other.startswith(f"{top}.")
        if rooms.index(other.split(".")[1]) > rooms.index(name.split(".")[1])
    ]
    assert upward == []


def test_no_module_is_in_a_circle() -> None:
    left = {name: set(others) for name, others in GRAPH.items()}
    while free := [name for name, others in left.items() if not others]:
        for name in free:
            del left[name]
        for others in left.values():
            others.difference_update(free)
    assert left == {}


@pytest.mark.parametrize("folder", MOST)
def test_a_folder_has_few_entries(folder: str) -> None:
    entries = {
        path.stem
        for path in (ROOT / folder).iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists()) and path.stem != "__init__"
    }
    assert len(entries) <= MOST[folder]


def test_few_loose_modules_and_few_names_twice() -> None:
    files = [path for path in MODULES.values() if path.name != "__init__.py"]
    loose = [path for path in files if path.parent.parent == ROOT]
    twice = [name for name, count in Counter(path.name for path in files).items() if count > 1]
    assert len(loose) <= 29
    assert len(twice) <= 19, sorted(twice)
