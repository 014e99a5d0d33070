"""`svp data check --page`: expressions and outlines of a data set, before anything is trained."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from support.asked_set import write_set
from svp.cli import main
from svp.pipeline.browse.expressions_page import write_expressions
from svp.pipeline.datasets import open_dataset


def check(*words: object) -> Result:
    return CliRunner().invoke(main, ["data", "check", *map(str, words)])


def test_every_expression_is_shown_over_its_photograph(tmp_path: Path) -> None:
    data = write_set(tmp_path / "set")
    lines = [json.loads(line) for line in data.read_text().splitlines()]
    lines[0]["expression"] = "<b>left</b>"
    lines.append({**lines[1], "mask": [[1, 2, 3]]})  # a bad record, which is left out
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = check(data, "--page", tmp_path / "page")
    assert said.exit_code == 0 and "usable; 1 bad record left out" in said.output
    (address,) = re.findall(r"page: file://(\S+)", said.output)
    text = Path(address).read_text()
    assert text.count('<figure class="sample"') == 5 and text.count("the right square") > 1
    assert "&lt;b&gt;left&lt;/b&gt;" in text and "<b>left" not in text
    assert "no target: the mask is empty" in text and text.count('class="target" d="M') == 4 + 1
    assert sorted(p.name for p in (tmp_path / "page/assets").iterdir()) == [
        "00001.webp", "00002.webp",
    ]  # fmt: skip
    # The left square is 6 x 5 of 16 x 12 pixels: the view box is 1280 wide, a pixel 80 units.
    assert 'viewBox="0 0 1280 960"' in text and "M80 160" in text
    assert "2 photographs, 5 expressions" in text


def test_few_of_many_and_photographs_that_are_gone(tmp_path: Path) -> None:
    source = open_dataset(write_set(tmp_path / "set"), allow_empty=True)
    (tmp_path / "set/turned.jpg").unlink()
    (tmp_path / "set/plain.png").unlink()
    text = write_expressions(source, tmp_path / "page", limit=1).read_text()
    assert "1 of 2 photographs, 3 expressions" in text and "--limit N shows more" in text
    assert text.count("no photograph · ") == 3 and "<img" not in text


@pytest.mark.parametrize("lines", ["", '{"image": "a.png"}\n'])
def test_no_page_of_what_is_not_usable(lines: str, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text(lines)
    said = check(tmp_path / "bad.jsonl", "--page", tmp_path / "page")
    assert said.exit_code == 1 and "no page" in said.output
    assert not (tmp_path / "page").exists()
