"""Times of the demo page in Chromium, with the tiny model: `make demo-times`.

They depend on what else the machine does, so no test asserts them. Processor seconds are those of the
server, which waits for nothing in them.
"""

import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import svp
from svp.train.runs.demo import TOY, build_page, scenes, serve

from .browser import CHROMIUM, Browser

PATIENCE = 300.0
CHOOSE = "document.querySelectorAll('tr.tr-body')[{0}].click()"
SEGMENT = (
    "[...document.querySelectorAll('button')].find(b => b.innerText.trim() == 'Segment').click()"
)
TEXT = "document.body?.innerText ?? ''"


def timed(what: str, browser: Browser, start: Callable[[], object], until: str) -> None:
    """Print how long it takes from `start` until the page fulfils a condition."""
    began, processor = time.perf_counter(), time.process_time()
    start()
    while not browser.js(until):
        if time.perf_counter() - began > PATIENCE:
            raise SystemExit(f"{what}: not there after {PATIENCE:.0f} s")
        time.sleep(0.02)
    seconds, used = time.perf_counter() - began, time.process_time() - processor
    print(f"{what}: {seconds:.2f} s ({used:.2f} s of the server's processor)", flush=True)


def main() -> None:
    """Load the page twice, then ask about two photographs."""
    if CHROMIUM is None:
        raise SystemExit("no Chromium on this machine: apt-get install chromium")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        page = build_page(svp.load("tiny", size="tiny", device="cpu"), TOY, scenes(folder))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        address = serve(page, port=port, wait=False)
        browser = Browser(folder / "profile")
        try:
            ready = (
                f"{TEXT}.includes('Segment') && document.querySelectorAll('tr.tr-body').length > 5"
            )
            for visit in ("first", "second"):
                timed(f"page, {visit} visit", browser, lambda: browser.open(address), ready)
            for k, which in enumerate(("first", "second")):
                heading = browser.js(
                    f"document.querySelectorAll('tr.tr-body')[{k}].innerText.trim()"
                )
                wait = f"/\\d+ superpixels?. Click/.test({TEXT}) && !/processing/.test({TEXT})"
                timed(
                    f"{which} photograph, superpixels",
                    browser,
                    lambda k=k: browser.js(CHOOSE.format(k)),  # type: ignore[misc]
                    wait,
                )
                answered = (
                    f"[...document.querySelectorAll('h2')].some(h => h.innerText == {heading!r})"
                )
                timed(f"{which} photograph, answer", browser, lambda: browser.js(SEGMENT), answered)
        finally:
            browser.close()
            page.close()


if __name__ == "__main__":
    main()
