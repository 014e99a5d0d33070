"""One bad record or image costs itself, on every command that reads data; --max-failures decides."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from svp.cli import main

SQUARE = [[10, 10, 50, 10, 50, 50, 10, 50]]
BAD: dict[str, object] = {
    "polygon of four numbers": {"image": "a.png", "expression": "x", "mask": [[1, 2, 3, 4]]},
    "RLE of another size": {
        "image": "a.png",
        "expression": "x",
        "mask": {"size": [9, 9], "counts": [81]},
    },
    "special token": {"image": "a.png", "expression": "the [SEG]", "mask": SQUARE},
    "no expression": {"image": "a.png", "mask": SQUARE},
    "no object": [1, 2],
}


def svp(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def data(folder: Path, *records: object) -> Path:
    for name in "ab":
        Image.new("RGB", (128, 128), (90, 90, 90)).save(folder / f"{name}.png")
    good = [
        {"image": f"{name}.png", "expression": "the disc", "mask": SQUARE, "split": split}
        for name, split in (("a", "train"), ("b", "val"))
    ]
    path = folder / "own.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in [good[0], *records, good[1]]))
    return path


Command = Callable[..., Result]
COMMANDS: dict[str, Callable[[Path, Path], tuple[object, ...]]] = {
    "convert": lambda path, out: ("data", "convert", path, "--out", out / "tables"),
    "export": lambda path, out: ("data", "export", path, "--out", out / "all.jsonl"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_bad_record_is_left_out_and_named(kind: str, command: str, tmp_path: Path) -> None:
    path = data(tmp_path, BAD[kind])
    words = COMMANDS[command](path, tmp_path)
    refused = svp(*words, "--max-failures", 0)
    assert (
        refused.exit_code == 1 and "line 2" in refused.output and "Traceback" not in refused.output
    )
    assert not (tmp_path / "tables").exists() and not (tmp_path / "all.jsonl").exists()
    done = svp(*words)
    assert done.exit_code == 0, done.output
    assert "1 bad record" in done.output and "own.jsonl" in done.output and "line 2" in done.output
    name = "tables/sentences.jsonl" if command == "convert" else "all.jsonl"
    assert len((tmp_path / name).read_text().splitlines()) == 2


@pytest.mark.parametrize("kind", BAD)
def test_data_check_names_it_and_counts(kind: str, tmp_path: Path) -> None:
    path = data(tmp_path, BAD[kind])
    for accepted, code in (((), 0), (("--max-failures", 1), 0), (("--max-failures", 0), 1)):
        found = svp("data", "check", path, *accepted)
        assert found.exit_code == code and "line 2" in found.output, found.output
        report = json.loads(svp("data", "check", path, *accepted, "--json").stdout)
        assert report["usable"] == (code == 0) and "line 2" in json.dumps(report)


def test_no_target_sentences_need_no_flag(tmp_path: Path) -> None:
    nothing = {"image": "a.png", "expression": "the elephant", "mask": [], "split": "val"}
    path = data(tmp_path, nothing)
    for flags in ((), ("--allow-empty",)):
        found = svp("data", "check", path, *flags)
        assert found.exit_code == 0, found.output
        assert ("1 sentence" in found.output and "N-acc" in found.output) == (not flags)
    assert (
        svp("data", "export", path, "--split", "val", "--out", tmp_path / "v.jsonl").exit_code == 0
    )
    rows = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert {row["expression"] for row in rows} == {"the elephant", "the disc"}
