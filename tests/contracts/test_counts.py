"""Counts and their nouns agree: `counted` writes them, so no line says "1 images"."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import svp

ROOT = Path(svp.__file__).parent
FILES = [
    path
    for package in ("pipeline", "model", "train", "integrations")
    for path in (ROOT / package).rglob("*.py")
]
TEXTS = ("line.tokens", "found", "change['superpixels']")  # text; more than one
UNITS = {"pixel", "value", "id", "bit", "character", "megapixel"}  # of sizes and limits, never one


def counted_nouns(tree: ast.Module) -> Iterator[str]:
    """The nouns that `counted` is called with, without their adjectives."""
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "counted":
            match call.args[1]:
                case ast.Constant(str(noun)):
                    yield noun.split()[-1]


def fixed_plurals(tree: ast.Module, nouns: set[str]) -> Iterator[str]:
    """Numbers in f-strings before a noun that is always plural: `{n} images`, `{n:,} bad records`.

    Constants, decimal fractions and text are no counts.
    """
    plural = re.compile(
        rf"^(?:\([^)]*\))? (?:(?!with|have|of|x )[a-z]+ )?({'|'.join(sorted(nouns))})(?:e?s\b(?!=)|\(s\))"
    )
    for text in ast.walk(tree):
        if not isinstance(text, ast.JoinedStr):
            continue
        for before, value, after in zip(
            [None, *text.values], text.values, text.values[1:], strict=False
        ):
            if not (isinstance(value, ast.FormattedValue) and isinstance(after, ast.Constant)):
                continue
            if isinstance(before, ast.Constant) and before.value.endswith("x"):
                continue  # {side}x{side} points
            found, source = plural.match(after.value), ast.unparse(value.value)
            form = ast.unparse(value.format_spec) if value.format_spec else ""
            words = ("show(", "quote(", "duration(", "size(", "counted(", "share(")
            if found and not (
                found[1] in UNITS or "f'." in form or ",." in form or "%" in form
                or source in TEXTS or source.isupper() or source.startswith(words)
            ):  # fmt: skip
                yield f"{value.lineno}: {{{source}}}{found[0]}"


def test_every_count_agrees_with_its_noun() -> None:
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
    nouns = {noun for tree in trees.values() for noun in counted_nouns(tree)}
    assert {"image", "shard", "sentence", "superpixel"} <= nouns
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path, tree in trees.items()
        for line in fixed_plurals(tree, nouns)
    ]
    assert not found, "write counted(number, noun):\n" + "\n".join(found)


@pytest.mark.parametrize(
    "text", ["{n} images", "{n:,} bad images", "{n} image(s)", "{len(x)} images"]
)
def test_the_rule_finds_a_fixed_plural(text: str) -> None:
    assert [*fixed_plurals(ast.parse(f'f"{text}"'), {"image"})]


@pytest.mark.parametrize(
    "text",
    ["{n:.1f} images", "{LIMIT} images", "{counted(n, 'image')}", "{n} imagesize", "{n} image"],
)
def test_the_rule_leaves_alone(text: str) -> None:
    assert not [*fixed_plurals(ast.parse(f'f"{text}"'), {"image"})]
