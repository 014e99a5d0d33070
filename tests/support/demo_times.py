"""Times of the demo page in Chromium, with the tiny model: `make demo-times`.

They depend on what else the machine does, so no test asserts them; processor seconds do not.
"""

import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

import svp
from svp.train.runs.demo import TOY, build_page, scenes, serve

from .browser import CHROMIUM, Browser

PATIENCE = 120.0
CHOOSE = "document.querySelectorAll('tr.tr-body')[{0}].click()"
SEGMENT = (
    "[...document.querySelectorAll('button')].find(b => b.innerText.trim() == 'Segment').click()"
)
TEXT = "(document.body?.innerText ?? '')"


def timed(what: str, browser: Browser, start: Callable[[], object], until: str) -> None:
    """Print how long it takes from `start` until the page fulfils a condition."""
    began, processor, theirs = time.perf_counter(), time.process_time(), chromium()
    start()
    while not browser.js(until):
        if time.perf_counter() - began > PATIENCE:
            raise SystemExit(f"{what}: not there after {PATIENCE:.0f} s")
        time.sleep(0.02)
    seconds, used = time.perf_counter() - began, time.process_time() - processor
    shown = chromium() - theirs
    print(
        f"{what}: {seconds:.2f} s (processor: server {used:.2f}, Chromium {shown:.2f})", flush=True
    )


def chromium() -> float:
    """Processor seconds of the browser's processes."""
    found = psutil.Process().children(recursive=True)
    return sum(sum(one.cpu_times()[:2]) for one in found)


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
                wait = (
                    f"/\\d+ superpixels?. Click/.test({TEXT}) && "
                    f"!/processing|Attention of the answer/.test({TEXT})"
                )
                timed(
                    f"{which} photograph, superpixels",
                    browser,
                    lambda k=k: browser.js(CHOOSE.format(k)),  # type: ignore[misc]
                    wait,
                )
                answered = f"/Attention of the answer/.test({TEXT}) && !/processing/.test({TEXT})"
                timed(f"{which} photograph, answer", browser, lambda: browser.js(SEGMENT), answered)
        finally:
            browser.close()
            page.close()


if __name__ == "__main__":
    main()
