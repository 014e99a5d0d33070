"""Code of the package that only tests call belongs to the tests."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import svp

ROOT = Path(svp.__file__).parent
PACKAGES = ("integrations", "model", "pipeline", "train", "workflows")
# Read by what no name leads to: pydantic, notebooks, and methods that a base class of a library calls.
_CALLED_FROM_OUTSIDE = {"model_config", "_repr_png_"}
# Folders whose caller is not written yet.
_NOT_CALLED_YET = ("pipeline/store/",)
# One text names attributes (templates), modules (lazy tables) and commands; docstrings do not count.
_LONGEST_TEXT = 200


def used_names(tree: ast.AST) -> Iterator[str]:
    """Names that code reads, with the words of short texts; imports and docstrings do not count."""
    docstrings = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Load()) | ast.Attribute(attr=name):
                yield name
            case ast.keyword(arg=str(name)):
                yield name
            case ast.Constant(value=str(text)) if (
                len(text) <= _LONGEST_TEXT and node not in docstrings
            ):
                yield from re.findall(r"\w+", text)


def definitions(tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    """Functions, classes and constants of a module, and members of its classes without bases."""
    scopes: list[ast.Module | ast.ClassDef] = [tree]
    scopes += [n for n in tree.body if isinstance(n, ast.ClassDef) and not n.bases]
    for scope in scopes:
        for node in scope.body:
            match node:
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                    if not _is_registered(node):
                        yield name, node
                case (
                    ast.Assign(targets=[ast.Name(id=name)])
                    | ast.AnnAssign(target=ast.Name(id=name))
                ):
                    yield name, node


def _is_registered(node: ast.FunctionDef | ast.ClassDef) -> bool:
    """Whether a decorator hands it over (click's commands, validators), so that no name is needed."""
    plain = ("property", "staticmethod", "classmethod", "cache", "dataclass", "contextmanager")
    return any(not ast.unparse(one).startswith(plain) for one in node.decorator_list)


def unused(sources: dict[str, str], texts: str) -> list[str]:
    """`file:line: name` of each definition in `sources` that neither they nor `texts` use."""
    trees = {name: ast.parse(source) for name, source in sources.items()}
    uses = Counter(name for tree in trees.values() for name in used_names(tree))
    uses.update(re.findall(r"\w+", texts))
    return [
        f"{file}:{node.lineno}: {name}"
        for file, tree in trees.items()
        for name, node in definitions(tree)
        if not (name.startswith("__") or name in _CALLED_FROM_OUTSIDE)
        and uses[name] <= sum(found == name for found in used_names(node))
    ]


def test_the_package_uses_what_it_defines() -> None:
    files = [
        *ROOT.glob("*.py"),
        *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")),
    ]
    sources = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in files}
    pages = [*(ROOT / "pipeline").rglob("*.j2"), *(ROOT / "train").rglob("*.j2")]
    pages += [ROOT / "setup.cfg", ROOT / "docs/api.md", ROOT / "CONTRIBUTING.md"]
    pages += [ROOT / "docs/integration.md", *(ROOT / "workflows/lmms_eval").iterdir()]
    found = unused(sources, "\n".join(path.read_text(encoding="utf-8") for path in pages))
    early = [line for line in found if line.startswith(_NOT_CALLED_YET)]
    rest = [line for line in found if line not in early]
    assert not rest, "move to tests/support, or delete:\n" + "\n".join(rest)


def test_the_rule_finds_what_only_tests_call() -> None:
    code = '''
"""helper"""
LIMIT = 3
def helper(): "helper"
def recursive(): return recursive()
def used(): return LIMIT
class Box:
    size: int
    def lost(self): ...
VALUE = used(), Box(size=1)
'''
    assert unused({"a.py": code}, "VALUE") == [
        "a.py:4: helper",
        "a.py:5: recursive",
        "a.py:9: lost",
    ]
    assert unused({"a.py": code, "b.py": "from a import helper"}, "VALUE lost recursive") == [
        "a.py:4: helper"
    ]
    assert not unused({"a.py": code, "b.py": "helper, recursive"}, "VALUE {{ box.lost }}")
