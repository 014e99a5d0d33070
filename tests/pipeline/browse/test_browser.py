"""The page in a real Chromium: keyboard, mouse, phone, policy."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.axe import VIEWS, findings, shown_as
from support.browser import Browser, running
from svp.pipeline.browse.page import browse

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    yield from running(tmp_path_factory.mktemp("profile"))


@pytest.fixture(scope="module")
def page(
    make_cache: Callable[..., Path],
    images_root: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    cache = make_cache(bad={"bad/<b>.jpg": ("truncated", "ends early")}, unfinished=2)
    return browse(cache, tmp_path_factory.mktemp("page") / "out", images_root=images_root)


FOCUS = "document.activeElement"
FIRST = "document.querySelector('#image-1')"


def test_quiet_and_offline(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.js(
        "for (const i of document.images) i.loading = 'eager';"
        "Promise.all([...document.images].map(i => i.decode())).then(() => 0)"
    )
    assert browser.complaints() == []
    base = page.parent.as_uri()
    assert len(browser.requests()) == 1 + 6  # the page; two sizes of three photographs
    assert all(url.startswith(base) for url in browser.requests())
    assert browser.js("[...document.images].every(i => i.naturalWidth > 0)")
    assert browser.js("document.querySelectorAll('.card').length") == 3


def test_the_policy_stops_foreign_script_style_and_pictures(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.js(
        """window.seen = []; document.addEventListener("securitypolicyviolation",
        (e) => seen.push(e.effectiveDirective));
        const s = document.createElement("script"); s.textContent = "window.ran = 1";
        document.body.append(s);
        document.body.insertAdjacentHTML("beforeend",
          "<p style='color:red' onclick='window.ran=1'></p><img src='http://127.0.0.1:9/x.png'>");
        document.body.lastElementChild.previousElementSibling.click();"""
    )
    seen = browser.js("new Promise(r => setTimeout(() => r(window.seen), 200))")
    assert {"script-src-elem", "script-src-attr", "style-src-attr", "img-src"} <= set(seen)
    assert browser.js("window.ran") is None


def test_tab_reaches_everything_and_focus_is_seen(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.press("Tab")
    assert browser.js(f"{FOCUS}.className") == "skip"
    assert browser.js(f"{FOCUS}.getBoundingClientRect().top >= 0 || 'still sliding in'")
    reached = []
    for _ in range(120):
        browser.press("Tab")
        what = browser.js(f"{FOCUS}.closest('.card')?.id + ' ' + {FOCUS}.tagName")
        if browser.js(f"{FOCUS} === document.body"):
            break
        reached.append(what)
        assert browser.js(
            f"""(() => {{ const e = {FOCUS}.closest('.chip') ?? {FOCUS};
            return getComputedStyle(e).outlineStyle !== 'none' || {FOCUS}.matches('.scroll'); }})()"""
        ), what
    # Each card: seven switches, then its list as one stop.
    for card in ("image-1", "image-2", "image-3"):
        assert reached.count(f"{card} INPUT") == 7
        assert reached.count(f"{card} TR") == 1


def test_skip_link_leads_to_the_pictures(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.press("Tab")
    browser.js(f"{FOCUS}.click()")
    assert browser.js("location.hash") == "#main"
    assert browser.js(f"{FOCUS}.id") == "main"


def test_switches_hide_levels_by_keyboard(browser: Browser, page: Path) -> None:
    browser.open(page, "#image-1")
    shown = "getComputedStyle(document.querySelector('#image-1 .l{0}')).visibility === 'visible'"
    rows = "[...document.querySelectorAll('#image-1 tr.r{0}')].some(r => r.offsetParent)"
    for level in "210":
        browser.js(f"{FIRST}.querySelector('[data-layer=\"{level}\"]').focus()")
        browser.press(" ")
        assert not browser.js(shown.format(level)) and not browser.js(rows.format(level))
        browser.press(" ")
        assert browser.js(shown.format(level)) and browser.js(rows.format(level))
    for name in ("over", "grid"):
        assert (
            browser.js(f"getComputedStyle({FIRST}.querySelector('.layer-{name}')).display")
            == "none"
        )
    # The bar over all pictures sets every card's switch.
    browser.js("document.querySelector('[data-all=over]').focus()")
    browser.press(" ")
    boxes = "[...document.querySelectorAll('.card [data-layer=over]')]"
    assert browser.js(f"{boxes}.every(box => box.checked)")
    assert browser.js(f"getComputedStyle({FIRST}.querySelector('.layer-over')).display") != "none"
    browser.js("const o = document.querySelector('[data-opacity]'); o.value = 80;"
               "o.dispatchEvent(new Event('input'))")  # fmt: skip
    assert browser.js(f"getComputedStyle({FIRST}.querySelector('.fills')).opacity") == "0.8"


def test_arrows_walk_the_list_and_light_up_the_picture(browser: Browser, page: Path) -> None:
    browser.open(page, "#image-1")
    picked = "document.querySelector('#image-1 .sp.on')?.dataset.n"
    mark = "document.querySelector('#image-1 .mark').getAttribute('d')"
    last = browser.js(f"{FIRST}.querySelectorAll('tbody tr').length")
    browser.js(f"{FIRST}.querySelector('tbody tr').focus()")
    for key, row in (("ArrowDown", 2), ("ArrowDown", 3), ("ArrowUp", 2), ("End", last)):
        browser.press(key)
        assert browser.js(picked) == str(row) == browser.js(f"{FOCUS}.dataset.n")
        assert browser.js(mark) == browser.js(
            f"document.querySelector('#image-1 .sp[data-n=\"{row}\"]').getAttribute('d')"
        )
        assert browser.js(f"{FOCUS}.getAttribute('aria-selected')") == "true"
        said = browser.js(f"{FIRST}.querySelector('.readout').textContent")
        assert said.startswith(f"Superpixel {row}: ")
    assert browser.js("document.querySelectorAll('.sp.on').length") == 1
    browser.press("Escape")
    assert browser.js(picked) is None and browser.js(mark) == ""
    # A hidden level is stepped over.
    browser.js(f"{FIRST}.querySelector('[data-layer=\"2\"]').click()")
    browser.press("Home")
    assert browser.js(f"{FOCUS}.className.includes('r1')")


def test_search_and_order(browser: Browser, page: Path) -> None:
    browser.open(page)
    names = "[...document.querySelectorAll('.card:not([hidden]) h3')].map(h => h.textContent)"
    every = browser.js(names)
    browser.js("const f = document.querySelector('[data-find]'); f.value = 'COFF';"
               "f.dispatchEvent(new Event('input'))")  # fmt: skip
    assert browser.js(names) == ["coffee.png"]
    assert browser.js("document.querySelector('.tools output').textContent") == "1 of 3 shown"
    browser.js("location.hash = '#image-3'")  # an address of what is hidden shows it
    assert browser.js(f"new Promise(r => setTimeout(() => r({names}), 50))") == every
    browser.js("const s = document.querySelector('[data-sort]'); s.value = 'count';"
               "s.dispatchEvent(new Event('change'))")  # fmt: skip
    counts = "[...document.querySelectorAll('.card')].map(c => +c.dataset.count)"
    assert browser.js(counts) == sorted(browser.js(counts)) and browser.js(names) != every


def test_mouse_links_picture_and_list(browser: Browser, page: Path) -> None:
    browser.open(page, "#image-2")
    browser.point_at('#image-2 .sp[data-n="4"]')
    assert browser.js("document.querySelector('#image-2 tr.on').dataset.n") == "4"
    browser.point_at("#image-2 h3")
    assert browser.js("document.querySelector('#image-2 tr.on')") is None
    browser.point_at('#image-2 tr[data-n="3"] td')
    assert browser.js("document.querySelector('#image-2 .sp.on').dataset.n") == "3"


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_overflows_sideways(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width=width, height=844)
    assert browser.js("document.scrollingElement.scrollWidth") <= width
    outside = browser.js(
        f"""[...document.querySelectorAll("body *")].filter(e =>
        !e.closest(".jump, svg, .vh, .skip, .scroll") && e.getBoundingClientRect().right > {width} + 1)
        .map(e => e.outerHTML.slice(0, 80))"""
    )
    assert outside == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(browser: Browser, page: Path, scheme: str) -> None:
    shown_as(browser, scheme)
    browser.open(page)
    ratios = browser.js(
        """(() => {
        const paint = document.createElement("canvas").getContext("2d");
        const light = (name) => {
          paint.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(name);
          const hex = paint.fillStyle.match(/[0-9a-f]{2}/g).map(h => parseInt(h, 16) / 255)
            .map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
          return .2126 * hex[0] + .7152 * hex[1] + .0722 * hex[2]; };
        const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
          return (x + .05) / (y + .05); };
        return [["--ink", "--card"], ["--soft", "--card"], ["--soft", "--paper"],
          ["--soft", "--well"], ["--accent", "--card"], ["--warn", "--warn-paper"]]
          .map(pair => ratio(...pair)); })()"""
    )
    assert min(ratios) >= 4.5  # WCAG 2.2, 1.4.3
    assert browser.js("getComputedStyle(document.querySelector('.sp')).transitionDuration") == "0s"
    browser.call("Emulation.setEmulatedMedia", features=[])


def test_everything_that_can_be_used_has_a_name(browser: Browser, page: Path) -> None:
    browser.open(page)
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    used = {"link", "checkbox", "grid", "image", "group", "heading", "DisclosureTriangle"}
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node.get("ignored") and node.get("role", {}).get("value") in used
    ]
    assert {"link", "checkbox", "grid", "image", "heading"} <= {role for role, _ in named}
    assert [role for role, name in named if not name and role != "group"] == []


def test_axe_finds_nothing_serious(browser: Browser, page: Path) -> None:
    for scheme, width in VIEWS:
        shown_as(browser, scheme)
        browser.open(page, width=width)
        browser.js("for (const one of document.querySelectorAll('details')) one.open = true")
        assert findings(browser) == [], (scheme, width)


def test_page_without_photographs(
    browser: Browser, make_cache: Callable[..., Path], tmp_path: Path
) -> None:
    browser.open(browse(make_cache(), tmp_path / "bare"), width=390, height=844)
    assert browser.complaints() == [] and len(browser.requests()) == 1
    height = browser.js(f"{FIRST}.querySelector('.frame svg').getBoundingClientRect().height")
    assert height > 200
    assert browser.js("document.scrollingElement.scrollWidth") <= 390
