"""The page as text: hostile names, policy, figures, and the folder it lies in."""

import base64
import hashlib
import html
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from svp.pipeline.browse.page import browse
from svp.pipeline.cache.stats import stats
from svp.pipeline.errors import CacheError, ConfigError, MissingError
from svp.pipeline.records import Superpixels

MakeCache = Callable[..., Path]

HOSTILE = {
    "astronaut": "<script>alert(1)<!--.png",
    "coffee": "\"onload='alert(2)' x=\"&lt;{{ 7*7 }}.png",
    "chelsea": "safe\u202egnp.exe\u2066 and ]]><!--.png",
}


class Page(HTMLParser):
    """Elements of a page as (tag, attributes), and the text of each table row."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.rows: list[str] = []
        self._in_row = False
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "tr":
            self.rows.append("")
            self._in_row = True

    def handle_data(self, data: str) -> None:
        if self._in_row:
            self.rows[-1] += data + " "

    def handle_endtag(self, tag: str) -> None:
        self._in_row &= tag != "tr"

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.elements if name == tag]

    def of_class(self, name: str) -> list[dict[str, str]]:
        return [attrs for _, attrs in self.elements if name in attrs.get("class", "").split()]


@pytest.fixture(scope="module")
def page(
    make_cache: MakeCache, images_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Page:
    out = tmp_path_factory.mktemp("out") / "page"
    return Page(browse(make_cache(), out, images_root=images_root))


def test_hostile_text_stays_text(make_cache: MakeCache, tmp_path: Path) -> None:
    reason = ("<img src=x onerror=alert(3)>", "</td></table><script>alert(4)</script>\x1b[31m")
    cache = make_cache(HOSTILE, bad={"<b>bad</b>.png": reason}, split="</title><script>alert(5)")
    page = Page(browse(cache, tmp_path / "out"))
    assert len(page.all("script")) == 1
    assert "<b>" not in page.source.replace('<b class="num">', "")
    assert not [tag for tag, attrs in page.elements if any(n.startswith("on") for n in attrs)]
    assert not page.all("img")
    for char in "\u202e\u2066\x1b":
        assert char not in page.source
    assert "safe\\u202egnp.exe" in page.source  # shown as what it is
    text = html.unescape(page.source)
    assert "<script>alert(1)<!--.png" in text and "{{ 7*7 }}" in text
    assert "<title>Superpixels · &lt;/title&gt;&lt;script&gt;alert(5)</title>" in page.source


def test_policy_names_exactly_the_own_style_and_script(page: Page) -> None:
    policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "'self' file:"
    for tag in ("style", "script"):
        body = re.findall(rf"<{tag}>(.*?)</{tag}>", page.source, re.DOTALL)
        assert len(body) == 1
        digest = base64.b64encode(hashlib.sha256(body[0].encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    assert not [attrs for _, attrs in page.elements if "style" in attrs]


def test_no_address_leaves_the_folder(page: Page) -> None:
    for _, attrs in page.elements:
        for name in ("src", "href", "data", "action", "poster", "srcset"):
            assert not re.match(r"[a-z]+:|//|/|.*\.\.", attrs.get(name, ""))
    assert not re.search(r"https?://|@import|url\((?!#)", page.source)


def test_the_folder_can_be_moved(make_cache: MakeCache, images_root: Path, tmp_path: Path) -> None:
    browse(make_cache(), tmp_path / "a", images_root=images_root)
    shutil.move(tmp_path / "a", tmp_path / "b")
    moved = Page(tmp_path / "b/index.html")
    pictures = {attrs["src"] for attrs in moved.all("img")}
    assert len(pictures) == 6
    assert all((tmp_path / "b" / name).is_file() for name in pictures)
    on_disk = {str(path.relative_to(tmp_path / "b")) for path in (tmp_path / "b/assets").iterdir()}
    assert on_disk == pictures
    assert str(tmp_path) not in moved.source and str(images_root) not in moved.source


def test_pictures_are_bounded_and_lazy(page: Page, tmp_path: Path) -> None:
    assert all(attrs["loading"] == "lazy" for attrs in page.all("img"))
    assert all(attrs["alt"] for attrs in page.all("img") if "small" not in attrs["src"])
    assert len(page.source.encode()) < 200_000


def test_large_photographs_are_shrunk(
    make_cache: MakeCache, found: dict[str, Superpixels], tmp_path: Path
) -> None:
    size = (found["coffee"].width, found["coffee"].height)
    Image.new("RGB", size, "teal").save(tmp_path / "coffee.png")
    page = browse(make_cache({"coffee": "coffee.png"}), tmp_path / "out", images_root=tmp_path)
    with Image.open(page.parent / "assets/0001-small.webp") as small:
        assert small.format == "WEBP" and max(small.size) == 184


def test_figures_equal_the_cache(
    make_cache: MakeCache, found: dict[str, Superpixels], tmp_path: Path
) -> None:
    cache = make_cache(bad={"a.jpg": ("truncated", "x"), "b.jpg": ("truncated", "y")}, unfinished=5)
    page = Page(browse(cache, tmp_path / "out"))
    report, text = stats(cache), re.sub(r"<[^>]+>|\s+", " ", page.source)
    text = re.sub(r" +", " ", html.unescape(text))
    for name, value in {
        "Images": "3 of 10 planned",
        "Superpixels": f"{sum(map(len, found.values())) / 3:.1f} per image",
        "Coverage": f"{report.coverage.mean:.1%}".replace("%", " %"),
        "Overlap": f"{report.overlap.mean:.1%}".replace("%", " %"),
        "Quarantined": "2 2 truncated",
        "Fallback": "1 with one full-size superpixel",
    }.items():
        assert f" {name} {value}" in text, name
    assert "5 of 10 images are missing" in text
    for card, superpixels in enumerate(found.values(), 1):
        own = page.source.split(f'id="image-{card}"')[1].split("</article>")[0]
        for level in range(3):
            count = int((superpixels.level == level).sum())
            assert own.count(f'class="r{level}"') == count
            assert len(re.findall(rf'<path class="sp c\d+ l{level}"', own)) == count
        for number, area in enumerate(superpixels.area.tolist(), 1):
            assert f"Superpixel {number}: " in own and f"{area:,} px" in own
    assert text.count("no mask passed the selection: one superpixel") == 1


def test_histogram_is_also_a_table(page: Page, found: dict[str, Superpixels]) -> None:
    cells = [row.split() for row in page.rows]
    for count in {len(superpixels) for superpixels in found.values()}:
        assert [str(count), "1"] in cells
    plot = next(attrs for attrs in page.of_class("plot") if "role" in attrs)
    assert plot["role"] == "img" and "mean is" in plot["aria-label"]
    assert len(page.of_class("bar")) <= 40


def test_missing_and_wrong_photographs_are_said(
    make_cache: MakeCache, images_root: Path, tmp_path: Path
) -> None:
    shutil.copy(images_root / "coffee.png", tmp_path / "coffee.png")
    Image.new("RGB", (3, 3)).save(tmp_path / "chelsea.png")
    page = Page(browse(make_cache(), tmp_path / "out", images_root=tmp_path))
    assert "no photograph: missing" in page.source
    assert "no photograph: wrong-size" in page.source
    assert len(page.all("img")) == 2 and len(page.of_class("card")) == 3
    bare = Page(browse(make_cache(), tmp_path / "bare"))
    assert "photographs are not available" in bare.source and not bare.all("img")
    assert len(bare.of_class("sp")) == len(page.of_class("sp")) > 20


def test_a_photograph_outside_its_folder_is_never_read(
    make_cache: MakeCache, images_root: Path, tmp_path: Path
) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/coffee.png").symlink_to(images_root / "coffee.png")
    cache = make_cache({"coffee": "coffee.png"})
    page = Page(browse(cache, tmp_path / "out", images_root=tmp_path / "root"))
    assert "no photograph: unsafe-path" in page.source and not page.all("img")


def test_limit_and_ids(make_cache: MakeCache, tmp_path: Path) -> None:
    cache = make_cache(bad={"a.jpg": ("truncated", "x")})
    first = Page(browse(cache, tmp_path / "a", limit=1))
    assert len(first.of_class("card")) == 1 and "1 of 3 images" in first.source
    chosen = Page(browse(cache, tmp_path / "b", ids=[3, 1, 3]))
    assert [row for row in re.findall(r"id (\d+) · ", chosen.source)] == ["3", "1"]
    for wrong in (99, 100):
        with pytest.raises(ConfigError, match=f"image {wrong}"):
            browse(cache, tmp_path / "c", ids=[1, wrong])
    assert not (tmp_path / "c").exists()


def test_an_empty_cache_has_a_page(make_cache: MakeCache, tmp_path: Path) -> None:
    only_bad = make_cache({}, bad={"a.jpg": ("truncated", "x")})
    page = Page(browse(only_bad, tmp_path / "out"))
    assert "No image has been processed yet" in page.source
    assert len(page.of_class("card")) == 0


def test_only_an_earlier_page_is_replaced(make_cache: MakeCache, tmp_path: Path) -> None:
    cache, out = make_cache(), tmp_path / "out"
    browse(cache, out)
    before = (out / "index.html").read_bytes()
    browse(cache, out)
    assert (out / "index.html").read_bytes() == before  # nothing in it depends on the time
    (out / "assets").rmdir()  # as Git does with an empty folder
    browse(cache, out)
    assert (out / "assets").is_dir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match="holds other files"):
        browse(cache, out)
    assert (out / "mine.txt").read_text() == "keep"
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match="file: cannot be written: Not a directory"):
        browse(cache, tmp_path / "file")
    with pytest.raises(ConfigError, match="holds other files"):
        browse(cache, cache)


def test_a_failure_leaves_the_earlier_page_and_no_rubbish(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    cache, out = make_cache(), tmp_path / "out"
    browse(cache, out)
    before = (out / "index.html").read_bytes()
    damaged = next(cache.glob("superpixels/*/rle/c/0/0"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\0")
    with pytest.raises(CacheError):
        browse(cache, out)
    assert (out / "index.html").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_no_cache(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        browse(tmp_path / "none", tmp_path / "out")
