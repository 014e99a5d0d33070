"""Titles, help texts and documents use the field's terms: wording that must not come back."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import svp
from svp.cli import main

ROOT = Path(svp.__file__).parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEMPLATES = sorted(p for top in ("pipeline", "train") for p in (ROOT / top).rglob("*.html.j2"))
MODULES = [
    path
    for top in ("pipeline", "model", "train", "integrations", "workflows")
    for path in sorted((ROOT / top).rglob("*.py"))
]
QUESTION = r"(What|Where|Who|Whose|Whether|How|Which|When|Why)\b"
WIDTH = 100
# Metaphors that a reader has to decode, and the term of the field.
UNWANTED = {
    r"doors?": "entry point, interface",
    r"rooms?": "package, memory",
    r"eats?": "reads",
    r"(go|goes|going|went) on": "resume, continue",
    r"for ever": "permanent, stable",
    r"by chance": "random",
    r"dealt": "distributed, assigned",
    r"lent|lends": "moved, shared",
    r"twins?": "copy",
    r"hunts?|hunted": "search",
    r"accuse[sd]?|hopeless": "quarantined, abandoned",
    r"given up|gives up": "abandoned",
    r"whoever|somebody": "name the user or the process",
    r"(came|comes) out": "result, output",
    r"passed by": "skipped",
    r"not made yet": "missing",
    r"the very": "the same",
    r"anew": "again, new",
}
PATTERNS = [(re.compile(rf"\b({words})\b", re.IGNORECASE), why) for words, why in UNWANTED.items()]


# Of code: the same metaphors as identifiers.
UNWANTED_NAMES = {"dial", "dials", "door", "doors", "room", "rooms", "twin", "twins"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def unwanted(text: str) -> list[str]:
    found = ((pattern.search(text), why) for pattern, why in PATTERNS)
    return [f"{hit[0]!r}: write {why}" for hit, why in found if hit]


def summaries(tree: ast.Module) -> Iterator[str]:
    """First lines of the docstrings of the module, its classes and its functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text.splitlines()[0]


def commands(command: click.Command, path: str = "svp") -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for key, sub in command.commands.items():
            yield from commands(sub, f"{path} {key}")


def prose(page: Path) -> str:
    """A page without its code: fenced blocks and inline literals."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def test_the_patterns_find_what_they_name() -> None:
    assert unwanted("One door to every source") == ["'door': write entry point, interface"]
    assert unwanted("It goes on for ever") == [
        "'goes on': write resume, continue",
        "'for ever': write permanent, stable",
    ]
    assert unwanted("Resume the run from its newest checkpoint") == []


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_titles_are_noun_phrases_or_imperatives(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    title = (ast.get_docstring(tree) or "").partition("\n")[0]
    assert title or not tree.body, f"{name(path)}: no module docstring"
    assert not re.match(QUESTION, title), f"{name(path)}: {title}"
    assert len(title) <= WIDTH - len('"""'), f"{name(path)}: {len(title)} characters"
    # "Whether ..." is the common form for a function that returns a bool.
    question = re.compile(QUESTION.replace("Whether|", ""))
    wrong = {line: unwanted(line) for line in summaries(tree)}
    assert not {line: why for line, why in wrong.items() if why or question.match(line)}


def test_help_texts_are_sentences_and_every_option_has_one() -> None:
    count = 0
    for path, command in commands(main):
        texts = [(path, command.help or "")]
        for param in command.params:
            if isinstance(param, click.Option) and not param.hidden:
                texts.append((f"{path} {param.opts[0]}", param.help or ""))
        for where, text in texts:
            assert text, f"{where}: no help text"
            assert text.rstrip().endswith((".", "...")), f"{where}: {text}"
            assert not re.match(r"(Of|That|For|Whose|Beside) ", text), f"{where}: {text}"
            assert text[0].isupper(), f"{where}: {text}"
            assert not unwanted(text), f"{where}: {unwanted(text)}"
            count += 1
    assert count > 200


@pytest.mark.parametrize("template", TEMPLATES, ids=name)
def test_pages_use_plain_terms(template: Path) -> None:
    text = re.sub(r"<style>.*?</style>|<[^>]*>", " ", template.read_text("utf-8"), flags=re.DOTALL)
    assert not unwanted(text), f"{name(template)}: {unwanted(text)}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_documents_use_plain_terms(page: Path) -> None:
    for number, line in enumerate(prose(page).splitlines(), 1):
        assert not unwanted(line), f"{name(page)}, line {number} of the text: {unwanted(line)}"


def identifiers(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of everything that a module names itself."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=text) | ast.FunctionDef(name=text):
                yield node.lineno, text
            case ast.arg(arg=text) | ast.Name(id=text, ctx=ast.Store()):
                yield node.lineno, text
            case ast.Attribute(attr=text, ctx=ast.Store()):
                yield node.lineno, text


def words_of(identifier: str) -> set[str]:
    """`TokenBudget_of` -> token, budget, of."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", identifier)}


def test_identifiers_are_terms_of_the_field() -> None:
    assert words_of("_makeTwin_ofDOORS") == {"make", "twin", "of", "doors"}
    found = [
        f"{name(path)}:{line}: {text}"
        for path in MODULES
        for line, text in identifiers(ast.parse(path.read_text(encoding="utf-8")))
        if words_of(text) & UNWANTED_NAMES
    ]
    assert not found, "\n".join(found)
