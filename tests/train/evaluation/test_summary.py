"""The report and the page of an evaluation: right figures, safe text."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from svp.pipeline.errors import ConfigError
from svp.pipeline.masks.rle import encode
from svp.train.evaluation.page.page import write_page
from svp.train.evaluation.results import Bounds, Header, Results, Row, SplitSize, collect
from svp.train.evaluation.summary import EvalReport, summarise
from svp.train.metrics import metrics

EVIL = '<script>alert(1)</script> "quoted" \u202e[SEG]'


def make(
    *, repeats: int = 1, protocol: str = "full", images: int = 5, text: str = "left disc"
) -> Results:
    """Two sentences per image and repeat with random masks of 40 x 60 pixels."""
    rng, rows = np.random.default_rng(0), []
    for repeat in range(repeats):
        for k in range(2 * images):
            target = np.zeros((40, 60), np.bool_)
            target[5:25, 10:40] = True
            predicted = np.roll(target, int(rng.integers(0, 25)), 1)
            rows.append(
                Row(
                    repeat=repeat, dataset="refcoco", image_id=k // 2, ref_id=k, sent_id=k,
                    text=text, path=f"{k // 2}.png", height=40, width=60,
                    intersection=int((predicted & target).sum()),
                    union=int((predicted | target).sum()), target=int(target.sum()),
                    tokens=3 + k // 2, has_seg=True, counts=encode(predicted).counts.decode(),
                    classes=["position"], bounds=Bounds(single=0.5, union=0.75, pieces=2),
                )
            )  # fmt: skip
    size = SplitSize(dataset="refcoco", split_by="unc", split="val", images=images,
                     sentences=2 * images)  # fmt: skip
    header = Header(
        svp="0", commit="c0ffee", protocol=protocol,  # type: ignore[arg-type]
        generate=False, seed=0, repeats=repeats, order="area", splits=[size],
        digests={"cache 0": "ab"}, libraries={"torch": "2.10"},
    )  # fmt: skip
    return collect(header, rows)


def test_headline_of_full_is_the_first_repeat() -> None:
    results = make(repeats=3)
    (found,) = summarise(results)
    first = Results(results.header, [row for row in results.rows if row.repeat == 0])
    assert {n: v.value for n, v in found.values.items()} == metrics(first.counts)
    each = [
        metrics(Results(results.header, [r for r in results.rows if r.repeat == k]).counts)["gIoU"]
        for k in range(3)
    ]
    assert found.spread["gIoU"].mean == pytest.approx(np.mean(each))
    assert found.spread["gIoU"].sd == pytest.approx(np.std(each, ddof=1))
    assert found.tokens[0] == 5.0 and found.bounds["best union of superpixels"] == 0.75


def test_headline_of_glamm_is_all_repeats() -> None:
    results = make(repeats=3, protocol="glamm")
    (found,) = summarise(results)
    assert found.values["gIoU"].value == metrics(results.counts)["gIoU"]


def test_published_numbers_only_beside_the_published_split() -> None:
    text = "\n".join(EvalReport(make().header, summarise(make())).lines())
    assert "refcoco/unc val: 5 images, 10 sentences" in text and "paper" not in text
    results = make()
    size = results.header.splits[0].model_copy(update={"images": 1500})
    whole = Results(results.header.model_copy(update={"splits": [size]}), results.rows)
    text = "\n".join(EvalReport(whole.header, summarise(whole)).lines())
    assert "SVP (40 tokens) gIoU 81.5  paper, table 3" in text


def test_json_has_the_same_figures_and_no_nan() -> None:
    results = make()
    report = EvalReport(results.header, summarise(results))
    raw = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert raw["splits"][0]["values"]["cIoU"]["value"] == metrics(results.counts)["cIoU"]
    assert raw["splits"][0]["n_acc"] is None and raw["header"]["commit"] == "c0ffee"


class Tags(HTMLParser):
    """Counts elements; collects addresses."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href") and v]


def test_page_shows_pictures_and_keeps_text_text(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for k in range(4):  # one photograph is missing
        Image.new("RGB", (60, 40), (k, 90, 90)).save(photos / f"{k}.png")
    target = np.zeros((40, 60), np.bool_)
    target[5:25, 10:40] = True
    page = write_page(
        make(text=EVIL), tmp_path / "page", images=photos, targets=lambda row: encode(target)
    )
    html, seen = page.read_text("utf-8"), Tags(page)
    assert seen.tags.count("script") == 1 and "&lt;script&gt;" in html and "\u202e" not in html
    assert seen.tags.count("figure") == 10 and 'class="target" d="M' in html  # each sentence once
    assert all((page.parent / link).is_file() for link in seen.links if not link.startswith("#"))
    assert seen.tags.count("img") >= 8
    before = page.stat().st_ino
    again = write_page(make(), tmp_path / "page")  # replaced, without photographs
    assert again == page and page.stat().st_ino != before and "img" not in Tags(page).tags
    with pytest.raises(ConfigError, match="other files"):
        write_page(make(), photos)
