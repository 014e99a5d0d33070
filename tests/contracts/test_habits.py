"""What contributors and readers lean on agrees with the tree: versions, site, links, paths."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import svp

ROOT = Path(svp.__file__).parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = sorted([
    *ROOT.glob("*.md"), *PAGES, *(ROOT / "workflows").rglob("*.md"), *(ROOT / ".github").rglob("*.md"),
])  # fmt: skip
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(path: Path) -> set[str]:
    """Anchors of a page's headings, as Markdown renderers make them."""
    titles = re.findall(r"^#{1,6} (.+)$", CODE.sub("", path.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


def site() -> dict[str, Any]:
    """mkdocs.yml without its Python tags, which a safe loader refuses."""
    text = re.sub(r"!!python/name:\S+", "null", (ROOT / "mkdocs.yml").read_text("utf-8"))
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def nav(part: Any) -> list[str]:
    if isinstance(part, str):
        return [part]
    values = part.values() if isinstance(part, dict) else part
    return [page for value in values for page in nav(value)]


def selection() -> list[str]:
    """What `make test-fast` runs."""
    found = re.search(
        r"^FAST := ((?:.*\\\n)*.*)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE
    )
    assert found
    return found[1].replace("\\\n", " ").split()


def test_versions_agree() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    released = re.findall(
        r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE
    )
    assert cited["version"] == svp.__version__
    assert released[:2] == ["Unreleased", svp.__version__]


def test_every_page_has_one_place_in_the_site() -> None:
    assert sorted(nav(site()["nav"])) == sorted(p.relative_to(DOCS).as_posix() for p in PAGES)


def test_the_index_leads_to_every_page_of_its_four_kinds() -> None:
    linked = LINK.findall((DOCS / "index.md").read_text("utf-8"))
    own = {p.name for p in DOCS.glob("*.md")} - {"index.md"}
    assert sorted(own | {"results/README.md", "decisions/README.md"}) == sorted(linked)


def test_every_page_is_of_one_kind_the_same_in_the_site_and_the_index() -> None:
    kinds = {title: nav(pages) for part in site()["nav"][1:] for title, pages in part.items()}
    assert list(kinds) == ["Tutorial", "How-to guides", "Reference", "Explanation"]
    index = re.split(r"^## ", (DOCS / "index.md").read_text("utf-8"), flags=re.MULTILINE)[1:]
    for (kind, pages), section in zip(kinds.items(), index, strict=True):
        assert section.startswith(f"{kind}: ")
        listed = [page for page in pages if "/" not in page or page.endswith("/README.md")]
        assert LINK.findall(section) == listed


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_links_resolve(path: Path) -> None:
    for link in LINK.findall(CODE.sub("", path.read_text("utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{name(path)}: {link}: no such file"
        assert path not in PAGES or target.is_relative_to(DOCS), (
            f"{name(path)}: {link} leaves docs/"
        )
        if anchor:
            assert anchor in anchors(target), f"{name(path)}: {link}: no such heading"


def test_the_fast_selection_exists() -> None:
    assert selection()
    for path in selection():
        assert (ROOT / path).exists(), f"Makefile, FAST: {path} does not exist"


def test_paths_the_guide_names_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    named = re.findall(r"`((?:pipeline|model|train|tests|docs|workflows)/[\w/.]*)`", text)
    assert len(named) > 10
    for path in named:
        assert (ROOT / path).exists(), f"CONTRIBUTING.md: {path} does not exist"
    for target in re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)", text, re.MULTILINE):
        assert f"\n{''.join(target)}:" in (ROOT / "Makefile").read_text("utf-8"), target


@pytest.mark.parametrize("path", sorted((DOCS / "decisions").glob("0*.md")), ids=name)
def test_decisions_have_one_form(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.startswith(f"# {path.name[:4]}. ")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]
    for module in re.findall(r"`((?:pipeline|model|train)/[\w/]+\.py)`", text):
        assert (ROOT / module).is_file(), f"{name(path)}: {module} does not exist"


def test_the_reference_describes_the_public_names() -> None:
    named = re.findall(r"^::: (\S+)$", (DOCS / "api.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(dotted.rpartition(".")[2] for dotted in named) == sorted(svp.__all__)
    for dotted in named:
        assert dotted in (f"svp.{dotted.rpartition('.')[2]}", "svp.train.metrics")


def test_the_site_and_hooks_use_what_is_declared() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    entries = {hook["entry"] for hook in hooks[0]["hooks"]}
    assert entries == {".venv/bin/ruff check", ".venv/bin/ruff format", ".venv/bin/python -m mypy"}
    assert "ruff" in tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]
