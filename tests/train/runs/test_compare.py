"""`svp compare`: paired differences of two result files, and the sentences behind them."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from svp.cli import main
from svp.pipeline.errors import MissingError, PlanMismatchError
from svp.pipeline.masks.rle import encode
from svp.train.evaluation.results import Header, Row, SplitSize, collect, write_results
from svp.train.runs.compare import compare_command

TARGET = 50  # pixels, the upper half of a picture of 10 x 10
FIRST = (10, 20, 30, 40, 50, 50, 25, 5)  # pixels of it that are found, two sentences per image
SECOND = (20, 20, 28, 50, 10, 50, 25, 45)


def write(
    run: Path, name: str, found: Sequence[int], tokens: int = 40, budget: str | None = None
) -> Path:
    """A result file of masks inside their targets: IoU = pixels / TARGET."""
    rows = []
    for k, pixels in enumerate(found):
        mask = (np.arange(100) < pixels).reshape(10, 10)
        rows.append(
            Row(
                repeat=0, dataset="refcoco", image_id=k // 2, ref_id=k, sent_id=k, text=f"cup {k}",
                path=f"{k // 2}.png", height=10, width=10, intersection=pixels, union=TARGET,
                target=TARGET, tokens=tokens + k // 2, has_seg=True,
                counts=encode(mask).counts.decode(), classes=[], bounds=None,
            )
        )  # fmt: skip
    size = SplitSize(dataset="refcoco", split_by="unc", split="val", images=4, sentences=len(found))
    header = Header(
        svp="0.1.0", commit="abc", protocol="full", generate=False, seed=0, repeats=1, order="area",
        splits=[size], digests={} if budget is None else {"budget": budget}, libraries={},
    )  # fmt: skip
    path = run / "eval" / f"{name}.jsonl"
    write_results(path, collect(header, rows))
    return path


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    write(tmp_path / "a", "val-full-1", FIRST)
    write(tmp_path / "b", "val-full-1", SECOND, tokens=256)
    write(tmp_path / "b", "test-full-1", SECOND)
    return tmp_path / "a", tmp_path / "b"


def test_what_both_have_is_compared(runs: tuple[Path, Path]) -> None:
    (split,) = compare_command(*runs).splits
    assert (split.name, split.sentences, split.images) == ("val-full-1", 8, 4)
    want = sum(FIRST) / 8 / TARGET, sum(SECOND) / 8 / TARGET
    for metric in ("gIoU", "cIoU"):  # all targets are of one size
        assert split.values[metric] == pytest.approx(want, abs=1e-6)
        found = split.differences[metric]
        assert found.value == pytest.approx(want[0] - want[1], abs=1e-6)
        assert found.low < found.value < found.high
    assert split.tokens == (41.5, 257.5)
    assert split.clear == (1, 3)
    assert [row.text for row in split.apart[0]] == ["cup 4"]
    assert [row.text for row in split.apart[1]] == ["cup 7", "cup 0", "cup 3"]
    assert split.apart[1][0].path == "3.png"
    assert split.apart[1][0].iou == pytest.approx((0.1, 0.9), abs=1e-6)


def test_a_folder_of_runs_is_its_newest_and_budgets_are_told(tmp_path: Path) -> None:
    write(tmp_path / "one" / "old", "val-full-1", FIRST)
    write(tmp_path / "one" / "new", "val-full-1", SECOND, budget="mean:8")
    other = write(tmp_path / "two" / "run", "val-full-1", SECOND).parents[1]
    os.utime(tmp_path / "one" / "old", (1, 1))
    report = compare_command(tmp_path / "one", other)
    assert Path(report.first).name == "new"
    (split,) = report.splits
    assert split.asked == ("budget mean:8", "") and split.differences["gIoU"].value == 0
    assert "  asked    budget mean:8; as usual" in report.lines()
    page = tmp_path / "page"
    compare_command(tmp_path / "one", other, page=page)
    assert "the first budget mean:8, the second not." in (page / "index.html").read_text()


def test_the_same_results_do_not_differ(runs: tuple[Path, Path]) -> None:
    (split,) = compare_command(runs[0], runs[0]).splits
    assert {(d.value, d.low, d.high) for d in split.differences.values()} == {(0.0, 0.0, 0.0)}
    assert split.clear == (0, 0) and split.apart == ([], [])


def test_files_are_compared_whatever_their_names(runs: tuple[Path, Path]) -> None:
    files = [str(run / "eval" / f"{n}.jsonl") for run, n in zip(runs, ("val-full-1", "test-full-1"),
                                                                strict=True)]  # fmt: skip
    text = CliRunner().invoke(main, ["compare", *files])
    assert text.exit_code == 0 and "second: 3.png 'cup 7': 0.10, 0.90" in text.output
    assert "IoU at least 0.1 higher: 1 sentence by the first, 3 by the second" in text.output
    found = json.loads(CliRunner().invoke(main, ["compare", *files, "--json"]).stdout)
    assert found["splits"][0]["clear"] == [1, 3]


def test_the_page_has_both_answers_and_the_numbers_of_the_report(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    (found,) = compare_command(*runs, page=tmp_path / "page").splits
    html = (tmp_path / "page" / "index.html").read_text()
    for metric in ("gIoU", "cIoU"):
        for value in found.values[metric]:
            assert f'<td class="r">{100 * value:.2f}</td>' in html
        assert f"<b>{100 * found.differences[metric].value:+.2f}</b>" in html
    first, second = (
        html.split(title)[-1] for title in ("The first is better</h3>", "The second is better</h3>")
    )
    order = re.findall(r"<b>(cup \d)</b>", second)
    assert order == ["cup 7", "cup 0", "cup 3"]
    assert re.findall(r"<b>(cup \d)</b>", first)[:2] == ["cup 4", "cup 2"]
    assert html.count('class="pair"') == 5  # three are answered alike
    told = CliRunner().invoke(main, ["compare", *map(str, runs), "--page", str(tmp_path)])
    assert told.exit_code == 2 and "holds other files" in told.output


def test_what_cannot_be_compared_is_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"a: no results of split test: evaluate it with"):
        compare_command(*runs, split="test")
    (runs[0] / "eval" / "val-full-1.jsonl").rename(runs[0] / "eval" / "val-glamm-3.jsonl")
    with pytest.raises(
        MissingError, match=r"same split and protocol .*val-glamm-3; .*test-full-1, "
    ):
        compare_command(*runs)
    other = write(tmp_path / "c", "val-full-1", FIRST[:6])
    with pytest.raises(PlanMismatchError, match="other sentences"):
        compare_command(other, runs[1] / "eval" / "val-full-1.jsonl")
