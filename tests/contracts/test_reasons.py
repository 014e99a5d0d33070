"""Codes of the quarantine list: documented, and never renamed, because manifests contain them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import svp
from support.reasons import documented_reasons

ROOT = Path(svp.__file__).parent
# Caches with these exist, so they keep their underscores; a new code is written with hyphens.
OLD = {
    "too_many_superpixels", "rle_overflow", "nonfinite_features",
    "worker_died", "worker_timeout", "worker_error",
}  # fmt: skip


def codes(tree: ast.Module) -> Iterator[str]:
    """Texts that stand for a parameter `reason`: of ImageError, of a helper, of a Literal."""
    named = {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    helpers = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.args.args[:1]
        if node.args.args[0].arg == "reason"
    }
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name), args=[first, *_]) if name in helpers | {
                "ImageError"
            }:
                for part in ast.walk(first):
                    if isinstance(part, ast.Constant):
                        yield part.value
                    elif isinstance(part, ast.Name) and part.id in named:
                        yield named[part.id]
            case ast.Assign(targets=[ast.Name(id="Reason")], value=ast.Subscript(slice=values)):
                yield from (
                    part.value for part in ast.walk(values) if isinstance(part, ast.Constant)
                )


def test_every_code_is_documented() -> None:
    found = {
        code
        for path in (ROOT / "pipeline").rglob("*.py")
        for code in codes(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert {"missing", "truncated", "changed", "bad-masks", "worker_died", "overflow"} <= found
    assert found == documented_reasons()
    assert {code for code in found if not re.fullmatch(r"[a-z]+(-[a-z]+)*", code)} == OLD
