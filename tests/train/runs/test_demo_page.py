"""The demo in a real Chromium: an example, its answer and a superpixel, on a desk and on a phone."""

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

import svp
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


def until(browser: Browser, condition: str, seconds: float = 40.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := browser.js(condition)):
        assert time.monotonic() < end, browser.js("document.body.innerText")
        time.sleep(0.1)
    return found


@pytest.mark.timeout(240)
@pytest.mark.parametrize("width", [1280, 390])
def test_from_an_example_to_an_answer(browser: Browser, address: str, width: int) -> None:
    browser.open(address, width=width)
    until(browser, "document.body.innerText.includes('Segment')")
    assert browser.js("document.documentElement.scrollWidth <= innerWidth"), "no sideways scrolling"
    until(browser, "document.querySelectorAll('.gallery-item, tr.tr-body, td img').length > 0")
    browser.js("document.querySelector('.gallery-item, tr.tr-body').click()")
    until(browser, "/\\d+ superpixels. Click one/.test(document.body.innerText)")
    browser.js(
        "[...document.querySelectorAll('button')].find(b => b.innerText.trim() == 'Segment').click()"
    )
    until(browser, "/visual tokens/.test(document.body.innerText)")
    assert "pixels" in browser.js("document.body.innerText")
    assert browser.js(NAMELESS) == []
    assert browser.js("document.documentElement.scrollWidth <= innerWidth")
    asked = {url.split("/")[2] for url in browser.requests() if url.startswith("http")}
    assert asked == {address.split("/")[2]}, "nothing is asked of another machine"
    errors = [
        line for line in browser.complaints() if '"level": "error"' in line or "Thrown" in line
    ]
    assert errors == []
