"""The demo in a real Chromium: an example, its answer and a superpixel, on a desk and on a phone."""

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

import svp
from support.axe import findings, shown_as
from support.browser import Browser, running
from svp.train.runs.demo import TOY, build_page, scenes, serve

pytest.importorskip("gradio", reason="pip install 'svp[demo]'")
pytestmark = pytest.mark.browser

# Every visible control without a name for a screen reader.
NAMELESS = """[...document.querySelectorAll("button, input, textarea, a, img")]
  .filter(e => e.checkVisibility() && e.type !== "file")
  .filter(e => !(e.ariaLabel || e.title || e.alt || e.innerText?.trim() || e.placeholder ||
                 e.closest("label, tr")?.innerText?.trim() || e.labels?.length ||
                 e.querySelector("[aria-label], [title], img[alt]:not([alt=''])")))
  .map(e => e.outerHTML.slice(0, 150))"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    yield from running(tmp_path_factory.mktemp("profile"))


@pytest.fixture(scope="module")
def address(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    model = svp.load("tiny", size="tiny", device="cpu")
    page = build_page(model, TOY, scenes(tmp_path_factory.mktemp("examples")))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    yield serve(page, port=port, wait=False)
    page.close()


def until(browser: Browser, condition: str, seconds: float = 100.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := browser.js(condition)):
        assert time.monotonic() < end, browser.js("document.body.innerText")
        time.sleep(0.1)
    return found


SLIDER = "document.querySelector('input[type=range]')"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("width", [1280, 390])
def test_from_an_example_to_an_answer(browser: Browser, address: str, width: int) -> None:
    shown_as(browser, "light")
    browser.open(address, width=width)
    until(browser, "document.body.innerText.includes('Segment')")
    assert browser.js("document.documentElement.scrollWidth <= innerWidth"), "no sideways scrolling"
    until(browser, "document.querySelectorAll('.gallery-item, tr.tr-body, td img').length > 0")
    browser.js("document.querySelector('.gallery-item, tr.tr-body').click()")
    said = until(browser, "document.body.innerText.match(/(\\d+) superpixels. Click one/)?.[1]")
    assert until(browser, f"{SLIDER}.value == {said} && {SLIDER}.max") == said
    browser.js(
        "[...document.querySelectorAll('button')].find(b => b.innerText.trim() == 'Segment').click()"
    )
    until(browser, "/Attention of the answer/.test(document.body.innerText)")
    assert tokens(browser) == int(said)
    for scheme in ("light", "dark"):
        shown_as(browser, scheme)
        until(
            browser, f"document.body.classList.contains('dark') == {str(scheme == 'dark').lower()}"
        )
        assert findings(browser) == [], scheme
    assert browser.js(NAMELESS) == []
    assert browser.js("document.documentElement.scrollWidth <= innerWidth")

    # By keyboard: a superpixel, then three superpixels fewer, which share one token.
    browser.js("document.querySelector('.legend-item').focus()")
    browser.press(" ")
    until(browser, "/Superpixel \\d+ whole: .*% of the attention/.test(document.body.innerText)")
    browser.js(f"{SLIDER}.focus()")
    for _ in range(3):
        browser.press("ArrowLeft")
    until(
        browser, f"[...document.querySelectorAll('td')].some(e => e.innerText == '{int(said) - 2}')"
    )
    assert "the rest, 3 superpixels in one token" in browser.js("document.body.innerText")

    asked = {url.split("/")[2] for url in browser.requests() if url.startswith("http")}
    assert asked == {address.split("/")[2]}, "nothing is asked of another machine"
    errors = [
        line for line in browser.complaints() if '"level": "error"' in line or "Thrown" in line
    ]
    assert errors == []


def tokens(browser: Browser) -> int:
    """Visual tokens, in the table of costs."""
    row = "[...document.querySelectorAll('tr')].find(r => /^visual tokens/.test(r.innerText))"
    return int(browser.js(f"{row}.children[1].innerText"))


@pytest.mark.timeout(120)
def test_tab_reaches_all_that_can_be_used(browser: Browser, address: str) -> None:
    browser.open(address)
    until(browser, "document.querySelectorAll('tr.tr-body').length > 0")
    reached = []
    for _ in range(12):
        browser.press("Tab")
        reached.append(
            browser.js(
                "(e => `${e.tagName} ${e.type ?? ''} ${e.ariaLabel ?? ''} ${e.innerText.trim()}`)"
                "(document.activeElement)"
            )
        )
    for kind in ("TEXTAREA", "INPUT checkbox", "INPUT range", "BUTTON submit", "BUTTON"):
        assert any(one.startswith(kind) for one in reached), kind
    assert any("Segment" in one for one in reached)
