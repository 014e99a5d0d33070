"""Count the files a command's request enters, by following calls through the source.

    python tests/call_path.py [ROOT]

Static and by name: a call of an imported function or class enters its module, a method call the
class that alone defines a method of that name, unless the class is in a package that the caller may
not import. The numbers compare trees; they trace no run: all formats of data and all kinds of store
are counted, of which a run enters one.
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ENTRIES = {
    "precompute": (
        ("pipeline/precompute/launch.py", "open_request"),
        ("pipeline/precompute/launch.py", "launch"),
        ("pipeline/run/launch.py", "open_request"),
        ("pipeline/run/launch.py", "launch"),
    ),
    "train": (
        ("train/runs/train.py", "train_command"),
        ("train/launch.py", "train_command"),
    ),
    "evaluate": (
        ("train/runs/evaluate.py", "eval_command"),
        ("train/eval_run.py", "eval_command"),
    ),
}
PACKAGES = ("pipeline", "model", "train", "integrations")  # each imports itself and those before it
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Tree:
    """The functions and classes of a checkout, by module and name."""

    def __init__(self, root: Path) -> None:
        self.modules: dict[str, Path] = {}
        self.defined: dict[tuple[str, str], ast.AST] = {}
        self.names: dict[str, dict[str, tuple[str, str]]] = {}
        self.methods: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for top in PACKAGES:
            for path in sorted((root / top).rglob("*.py")):
                parts = path.relative_to(root).with_suffix("").parts
                name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
                self.modules[name] = path
        for name, path in self.modules.items():
            self._read(name, path)

    def _read(self, module: str, path: Path) -> None:
        package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
        names: dict[str, tuple[str, str]] = {}
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = package[: len(package) - node.level + 1]
                here = ".".join([*base, *filter(None, [node.module])])
                for alias in node.names:
                    inner = f"{here}.{alias.name}"
                    target = (inner, "") if inner in self.modules else (here, alias.name)
                    names[alias.asname or alias.name] = target
        for node in tree.body:
            if isinstance(node, Function | ast.ClassDef):
                self.defined[module, node.name] = node
                names[node.name] = (module, node.name)
            if isinstance(node, ast.ClassDef):
                for method in node.body:
                    if isinstance(method, Function):
                        self.methods[method.name].append((module, node.name))
                        self.defined[module, f"{node.name}.{method.name}"] = method
        self.names[module] = names

    def find(self, module: str, name: str) -> tuple[str, str] | None:
        """Where `name` of `module` is defined, through re-exports."""
        for _ in range(5):
            if (module, name) in self.defined:
                return module, name
            following = self.names.get(module, {}).get(name)
            if following is None or following == (module, name):
                return None
            module, name = following
        return None

    def called(self, module: str, name: str) -> Iterator[tuple[str, str]]:
        """What a function, or the construction of a class, calls."""
        node = self.defined[module, name]
        nodes = [node]
        if isinstance(node, ast.ClassDef):
            own = [m for m in node.body if isinstance(m, Function)]
            nodes = [m for m in own if m.name in ("__init__", "__post_init__")]
        for call in (inner for part in nodes for inner in ast.walk(part)):
            if not isinstance(call, ast.Call):
                continue
            if isinstance(call.func, ast.Name):
                found = self.find(module, call.func.id)
                if found is not None:
                    yield found
            elif isinstance(call.func, ast.Attribute):
                yield from self._attribute(module, call.func)

    def _attribute(self, module: str, node: ast.Attribute) -> Iterator[tuple[str, str]]:
        if isinstance(node.value, ast.Name):
            target = self.names[module].get(node.value.id)
            if target is not None and target[1] == "":
                found = self.find(target[0], node.attr)
                if found is not None:
                    yield found
                return
        owners = self.methods.get(node.attr, [])
        if len(owners) == 1 and _rank(owners[0][0]) <= _rank(module):
            yield owners[0][0], f"{owners[0][1]}.{node.attr}"


def _rank(module: str) -> int:
    return PACKAGES.index(module.partition(".")[0])


def entered(tree: Tree, root: Path, command: str) -> list[str]:
    """The files that a request of `command` enters, sorted."""
    by_path = {str(path.relative_to(root)): name for name, path in tree.modules.items()}
    left = [
        (by_path[path], name)
        for path, name in ENTRIES[command]
        if path in by_path and (by_path[path], name) in tree.defined
    ]
    seen = set(left)
    while left:
        for found in tree.called(*left.pop()):
            if found not in seen:
                seen.add(found)
                left.append(found)
    return sorted({str(tree.modules[module].relative_to(root)) for module, _ in seen})


def main() -> None:
    """Print the counts of every command and the lines of code outside the tests."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1]).resolve()
    tree = Tree(root)
    for command in ENTRIES:
        print(f"{command}: {len(entered(tree, root, command))} files")
    lines = sum(len(path.read_text().splitlines()) for path in tree.modules.values())
    print(f"code: {lines:,} lines in {len(tree.modules)} files")


if __name__ == "__main__":
    main()
