"""Every package and extra that a message or a document names can be installed as it says."""

import ast
import configparser
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import svp

ROOT = Path(svp.__file__).parent
CODE = [
    p
    for d in ("pipeline", "model", "train", "integrations", "workflows")
    for p in (ROOT / d).rglob("*.py")
]
TEXTS = [
    path
    for pattern in ("*.md", "docs/**/*.md", "workflows/**/*", "Makefile", ".github/**/*")
    for path in ROOT.glob(pattern)
    if path.suffix in (".md", ".yaml", ".yml", ".sh", ".sbatch", ".py", "") and path.is_file()
]


def setup() -> configparser.ConfigParser:
    found = configparser.ConfigParser()
    found.read(ROOT / "setup.cfg", "utf-8")
    return found


def lines(text: str) -> list[str]:
    return [line.strip() for part in text.split(";") for line in part.splitlines() if line.strip()]


def extras() -> dict[str, set[str]]:
    """Packages of each extra, those of extras it names included."""
    found = setup()["options.extras_require"]
    own = {name: [Requirement(line) for line in lines(text)] for name, text in found.items()}

    def closure(name: str) -> set[str]:
        packages = set()
        for needed in own[name]:
            packages.add(needed.name)
            if needed.name == "svp":
                packages |= {p for extra in needed.extras for p in closure(extra)}
            packages |= {extra for extra in needed.extras if needed.name == "dask"}
        return packages - {"svp"}

    return {name: closure(name) for name in own}


def base() -> set[str]:
    return {Requirement(line).name for line in lines(setup()["options"]["install_requires"])}


def calls() -> Iterator[tuple[str, str, str]]:
    """(place, packages, extra) of every MissingPackageError that is raised."""
    for path in CODE:
        text = path.read_text("utf-8")
        if "MissingPackageError" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "MissingPackageError":
                place = f"{path.relative_to(ROOT)}:{node.lineno}"
                words = [a.value if isinstance(a, ast.Constant) else None for a in node.args[:2]]
                assert all(isinstance(w, str) for w in words), f"{place}: name them literally"
                yield place, str(words[0]), str(words[1])


@pytest.mark.parametrize(
    ("place", "packages", "extra"), [pytest.param(*c, id=c[0]) for c in calls()]
)
def test_the_extra_a_message_names_brings_the_packages(
    place: str, packages: str, extra: str
) -> None:
    assert extra in extras(), f"{place}: setup.cfg has no extra {extra!r}"
    for package in re.split(r" and |, ", packages):
        assert package in extras()[extra] | base(), f"{place}: {package} is not in svp[{extra}]"


def test_extras_in_texts_exist() -> None:
    known, seen = extras(), 0
    for path in [*CODE, *TEXTS]:
        for match in re.finditer(r"\bsvp\[([A-Za-z0-9_, -]+)\]['\"`]", path.read_text("utf-8")):
            for name in match[1].split(","):
                assert name.strip() in known, f"{path.relative_to(ROOT)}: no extra {name!r}"
                seen += 1
    assert seen > 2


def test_what_extras_name_is_pinned() -> None:
    """constraints.txt is what CI and the documented set-up install by."""
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in
              (ROOT / "constraints.txt").read_text().split()}  # fmt: skip
    wanted = set().union(*extras().values()) | base()
    assert {name.lower() for name in wanted} - {"distributed", "array"} <= pinned
