"""Pages of evaluation, comparison, learning curves and tables in a real Chromium."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import svp
from support.asked_set import write_set
from support.axe import VIEWS, findings, shown_as
from support.browser import Browser, running
from svp.pipeline.browse import page_kit
from svp.pipeline.browse.expressions_page import write_expressions
from svp.pipeline.datasets import open_dataset
from svp.pipeline.masks.rle import encode
from svp.train.evaluation.page.learning_curves import write_page as write_curves
from svp.train.evaluation.page.page import write_page
from svp.train.evaluation.results import Header, Results, Row, SplitSize, collect, write_results
from svp.train.figures import run as figures
from svp.train.figures.canvas import Picture
from svp.train.reproduce.report import write_page as write_table
from svp.train.reproduce.results import read_table
from svp.train.runs.compare import compare_command

pytestmark = pytest.mark.browser

IMAGES, EACH, SIDE = 6, 5, 40


def answers(shift: int) -> Results:
    """Rectangles beside their targets, the further the later the sentence."""
    rows = []
    for k in range(IMAGES * EACH):
        target = np.zeros((SIDE, SIDE), np.bool_)
        target[5:25, 5:25] = True
        found = np.roll(target, (k * shift) % 15, 1)
        rows.append(
            Row(
                repeat=0, dataset="d", image_id=k // EACH, ref_id=k, sent_id=k, text=f"cup {k} <b>",
                path=f"{k // EACH}.png", height=SIDE, width=SIDE,
                intersection=int((found & target).sum()), union=int((found | target).sum()),
                target=400, tokens=9, has_seg=True, counts=encode(found).counts.decode(),
                classes=["position"] if k % 3 else [],
            )
        )  # fmt: skip
    size = SplitSize(dataset="d", split_by="", split="val", images=IMAGES, sentences=len(rows))
    header = Header(
        svp="0", commit="c0ffee", protocol="full", generate=False, seed=0, repeats=1, order="area",
        splits=[size], digests={"cache 0": "ab"}, libraries={"torch": "2.10"},
    )  # fmt: skip
    return collect(header, rows)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    yield from running(tmp_path_factory.mktemp("profile"))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pages")
    photos = root / "photos"
    photos.mkdir()
    for k in range(IMAGES):
        Image.new("RGB", (SIDE, SIDE), (40 * k, 90, 90)).save(photos / f"{k}.png")
    for name, shift in (("a", 1), ("b", 4)):
        write_results(root / name / "eval" / "val-full-1.jsonl", answers(shift))
        lines = [
            {"step": k, "loss": shift / k, "lr": 0.1, "stage": "align" if k < 9 else "finetune"}
            | ({"held-out/gIoU": 10.0 * k} if k % 5 == 0 else {})
            for k in range(1, 21)
        ]
        (root / name / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    told = compare_command(root / "a", root / "b", page=root / "compare", images=photos)
    target = np.zeros((SIDE, SIDE), np.bool_)
    target[5:25, 5:25] = True
    table = read_table(Path(svp.__file__).parent / "docs/results/table1-tiny.json")
    one = table.rows[0].model_copy(update={"cells": []})  # was not run
    table = table.model_copy(update={"rows": [one, *table.rows[1:]]})
    return {
        "eval": write_page(
            answers(1), root / "eval", images=photos, targets=lambda row: encode(target)
        ),
        "compare": Path(str(told.page)),
        "curves": write_curves(root / "a", root / "curves"),
        "table": write_table(table, root / "table"),
        "figures": write_figures(root / "figures"),
        "expressions": write_expressions(
            open_dataset(write_set(root / "set"), allow_empty=True), root / "expressions", limit=9
        ),
    }


def write_figures(out: Path) -> Path:
    drawn = Picture("good", "Good answers", "Fig. 5", "The best of ten.", b"png")
    none = Picture("attention", "Cross-attention maps", "Fig. 4", "This run has none.")

    def fill(page: Path) -> dict[str, object]:
        Image.new("RGB", (60, 40)).save(page / page_kit.ASSETS / "good.png")
        return {"title": "run", "pictures": [drawn, none], "facts": [("Commit", "c0ffee")]}

    return page_kit.write_page(out, figures.HERE / "figures.html.j2", fill)


@pytest.mark.parametrize("name", ["eval", "compare", "curves", "table", "figures", "expressions"])
def test_axe_finds_nothing_serious(browser: Browser, pages: dict[str, Path], name: str) -> None:
    for scheme, width in VIEWS:
        shown_as(browser, scheme)
        browser.open(pages[name], width=width)
        browser.js("for (const one of document.querySelectorAll('details')) one.open = true")
        assert findings(browser) == [], (scheme, width)


@pytest.mark.parametrize("name", ["eval", "compare", "curves", "table", "expressions"])
def test_pages_are_quiet_offline_and_fit(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    page = pages[name]
    for width in (390, 1280):
        browser.open(page, width=width, height=844)
        browser.js(
            "for (const i of document.images) i.loading = 'eager';"
            "Promise.all([...document.images].map(i => i.decode())).then(() => 0)"
        )
        assert browser.complaints() == []
        assert all(url.startswith(page.parent.as_uri()) for url in browser.requests())
        assert browser.js("document.scrollingElement.scrollWidth") <= width
        assert browser.js("document.querySelectorAll('h1').length") == 1
        cut = "[...document.querySelectorAll('.groups .scroll')].filter(s => s.scrollWidth > s.clientWidth)"
        assert width == 390 or browser.js(f"{cut}.length") == 0, "small tables are not cut"
    # Every chart has its table; every region that scrolls can be reached by keyboard.
    assert browser.js(
        "[...document.querySelectorAll('svg.plot')].every(s => s.parentElement.querySelector('table'))"
    )
    assert browser.js("[...document.querySelectorAll('.scroll')].every(s => s.tabIndex === 0)")
    ids = browser.js("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))


SHOWN = "[...document.querySelectorAll('.sample:not([hidden])')]"


def test_sentences_are_filtered_sorted_and_linked(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["eval"])
    every = browser.js(f"{SHOWN}.length")
    tops = browser.js(
        "[document.querySelector('.sample'), document.querySelector('.panel')]"
        ".map(e => e.getBoundingClientRect().top)"
    )
    assert tops[0] < 700 and tops[0] < tops[1], "it opens on pictures"

    choose = (
        "(() => {{ const f = document.querySelector('[data-facet={0}]'); f.value = '{1}';"
        "f.dispatchEvent(new Event('change')); }})()"
    )
    browser.js(choose.format("slices", "words: plain"))
    plain = browser.js(f"{SHOWN}.map(e => e.dataset.slices)")
    assert 0 < len(plain) < every and all("words: plain" in found for found in plain)
    assert browser.js(
        "[...document.querySelectorAll('[data-shelf]')].every("
        "s => s.hidden === !s.querySelector('.sample:not([hidden])'))"
    )
    hidden = browser.js("document.querySelector('.sample[hidden]').id")
    browser.js(f"location.hash = '#{hidden}'")
    assert browser.js(
        f"new Promise(r => setTimeout(() => r(document.getElementById('{hidden}').hidden), 50))"
    ) is False  # fmt: skip
    # A slice of the tables leads to its sentences.
    browser.js("document.querySelector('[data-value=\"words: position\"]').click()")
    assert browser.js(f"{SHOWN}.every(e => e.dataset.slices.includes('words: position'))")
    browser.open(pages["eval"], f"#{hidden}")  # an address of one sentence shows it large
    assert browser.js("document.querySelector(':target').id") == hidden
    assert browser.js("document.querySelector(':target').getBoundingClientRect().width") > 600


def test_both_answers_stand_side_by_side(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["compare"])
    gaps = browser.js(f"{SHOWN}.map(e => [+e.dataset.first - e.dataset.second, e.dataset.who])")
    assert gaps and all((gap > 0) == (who == "the first is better") for gap, who in gaps)
    first = [gap for gap, who in gaps if who == "the first is better"]
    assert first == sorted(first, reverse=True)
    boxes = browser.js(
        "[...document.querySelector('.pair').children].map(e => e.getBoundingClientRect())"
        ".map(b => [b.left, b.top])"
    )
    assert boxes[0][1] == boxes[1][1] and boxes[0][0] < boxes[1][0]
    titles = browser.js("[...document.querySelectorAll('.curves h3')].map(h => h.textContent)")
    assert titles == ["Loss", "Learning rate", "Held-out gIoU"]


@pytest.mark.parametrize("name", ["eval", "compare", "curves", "table"])
def test_print_shows_everything(browser: Browser, pages: dict[str, Path], name: str) -> None:
    browser.call("Emulation.setEmulatedMedia", media="print")
    browser.open(pages[name], width=718, height=1000)  # A4 within margins of a centimetre
    assert browser.js("document.scrollingElement.scrollWidth") <= 718
    assert browser.js("[...document.querySelectorAll('.tools, .skip')].every(e => !e.offsetParent)")
    assert browser.js("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    browser.call("Emulation.setEmulatedMedia", media="")
