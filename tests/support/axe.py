"""axe-core in the tests' Chromium: findings of a page that keep people out."""

import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from .browser import Browser

BAD = ("serious", "critical")
VIEWS = tuple((scheme, width) for scheme in ("light", "dark") for width in (1280, 390))
RUN = """axe.run(document, {resultTypes: ["violations"]}).then(found => found.violations.flatMap(
  rule => rule.nodes.map(node => [rule.impact, rule.id, node.target.join(" "),
    node.failureSummary.slice(0, 300), node.html.slice(0, 200)])))"""
# Gradio fades what is being computed; a colour on its way would be measured.
STILL = """!document.querySelector(".pending") && document.getAnimations().every(
  one => one.playState != "running" || one.effect.getComputedTiming().endTime == Infinity)"""


def findings(browser: Browser) -> list[list[str]]:
    """What axe says about the open page that is serious or critical.

    Skips where its script is not installed: that of the package axe-playwright-python is run, without
    Playwright.
    """
    browser.js(_script())
    end = time.monotonic() + 20
    while not browser.js(STILL) and time.monotonic() < end:
        time.sleep(0.05)
    found: list[list[str]] = browser.js(RUN)
    return [one for one in found if one[0] in BAD]


def shown_as(browser: Browser, scheme: str) -> None:
    """light or dark, with the least motion."""
    features: list[dict[str, Any]] = [
        {"name": "prefers-color-scheme", "value": scheme},
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]
    browser.call("Emulation.setEmulatedMedia", features=features)


def _script() -> str:
    spec = find_spec("axe_playwright_python")
    if spec is None or spec.origin is None:
        pytest.skip("no axe-core: pip install --no-deps axe-playwright-python")
    return (Path(spec.origin).parent / "axe.min.js").read_text()
