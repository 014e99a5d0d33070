"""docs/troubleshooting.md and docs/faq.md: every quoted message is one of the code, every command exists."""

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import svp
from svp.cli import main
from svp.train.rehearse.documents import Command, fault

ROOT = Path(svp.__file__).parent
PAGE = ROOT / "docs" / "troubleshooting.md"
ROW = re.compile(r"^\| `([^`]+)` \| .+ \|$", re.MULTILINE)
QUOTED = [row for row in ROW.findall(PAGE.read_text("utf-8"))]
VARIES = "\0"  # what a message fills in


@cache
def messages() -> tuple[str, ...]:
    """Every text of the packages, with `VARIES` for what is filled in."""
    found = []
    for top in ("pipeline", "model", "train"):
        for path in sorted((ROOT / top).rglob("*.py")):
            found += texts(ast.parse(path.read_text("utf-8")))
    return tuple(found)


def texts(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else VARIES
                for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def known(quoted: str) -> bool:
    """Whether a text of the code has the words of `quoted`, and fills in where it has `...`."""
    parts = [re.escape(part) for part in quoted.split("...")]
    pattern = re.compile(".*".join(parts), re.DOTALL)
    return any(pattern.search(text) for text in messages())


def test_the_page_quotes_messages() -> None:
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| `")]
    assert len(rows) == len(QUOTED) == len(set(QUOTED)) > 25


@pytest.mark.parametrize("quoted", QUOTED)
def test_every_quoted_message_is_one_of_the_code(quoted: str) -> None:
    assert len(quoted.replace("...", "")) > 10, "too few words to find it by"
    assert known(quoted)


def test_a_message_that_changed_is_found() -> None:
    assert known("port ... of ... cannot be used (...): name another, such as ...")
    assert not known("port ... of ... is taken (...): name another, such as ...")


@pytest.mark.parametrize("page", ["troubleshooting.md", "faq.md", "experience.md", "hardware.md"])
def test_commands_in_the_text_exist(page: str) -> None:
    """Of `svp` in backquotes, outside the blocks that the rehearsal runs; without an argument it
    names the command alone.
    """
    text = re.sub(
        r"^```.*?^```",
        "",
        (ROOT / "docs" / page).read_text("utf-8"),
        flags=re.DOTALL | re.MULTILINE,
    )
    named = [words for words in re.findall(r"`(svp [a-z][^`]*)`", text)]
    assert named
    for words in named:
        wrong = fault(Command(page, 1, tuple(shlex.split(words))), main)
        assert not wrong or "Missing" in wrong, f"{page}: {words}: {wrong}"


def test_tests_and_files_that_the_expectations_name_exist() -> None:
    text = (ROOT / "docs" / "experience.md").read_text("utf-8")
    named = re.findall(r"`((?:tests|workflows)/[\w/.]+)`", text)
    assert len(named) > 15
    assert [name for name in named if not (ROOT / name).exists()] == []
