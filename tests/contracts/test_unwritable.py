"""A place that cannot be written: every command says which, and why, in one line.

Run as root, a folder without permission is no obstacle; a file in the way is one for everybody.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from svp.cli import main
from svp.pipeline.commands.path_types import CheckedPath
from svp.pipeline.errors import CacheError
from svp.pipeline.io.atomic import check_writable, make_folders, writing

# What each command is given, `{bad}` being a path below a regular file.
WRITING = {
    "data convert": ["own.jsonl", "--out", "{bad}"],
    "data export": ["own.jsonl", "--out", "{bad}"],
    "data tsv": ["own.jsonl", "--out", "{bad}"],
    "data synth": ["{bad}", "--images", "2"],
    "precompute": ["--dataset", "own.jsonl", "--size", "tiny", "--workers", "0", "--out", "{bad}"],
    "cache browse": ["cache", "--out", "{bad}"],
    "cache export": ["cache", "--to", "coco", "--out", "{bad}"],
    "answers": ["results.jsonl", "--to", "coco", "--out", "{bad}"],
    "cache copy": ["cache", "--out", "{bad}"],
    "cache convert": ["cache", "--out", "{bad}"],
    "predict": ["own.png", "the disc", "--size", "tiny", "--out", "{bad}"],
    "train": ["--from-cache", "cache", "--dataset", "own.jsonl", "--size", "tiny", "--runs", "{bad}"],
    "eval": ["--published", "folder", "--split", "val", "--out", "{bad}"],
    "export": ["{bad}"],
    "figures": ["run", "--out", "{bad}"],
    "reproduce": ["table5", "--runs", "{bad}"],
    "quickstart": ["--runs", "{bad}"],
    "fetch": ["vit_b", "--dest", "{bad}"],
}  # fmt: skip
# Further options that name an output: what is given with them.
FURTHER = {
    ("data check", "--page"): ["own.jsonl"],
    ("eval", "--page"): ["--from-results", "results.jsonl"],
    ("compare", "--page"): ["runs/one", "runs/two"],
    ("status", "--page"): ["runs/one"],
    ("reproduce", "--out"): ["table5"],
    ("reproduce", "--caches"): ["table5"],
    ("rehearse", "--out"): [],
    ("bench store", "--folder"): [],
    ("bench loader", "--folder"): [],
    ("bench loader", "--environments"): [],
    ("bench remote", "--folder"): ["memory://unwritable"],
    ("bench remote", "--environments"): ["memory://unwritable"],
    ("bench checkpoint", "--folder"): ["--parameters", "1000"],
    ("bench gpu", "--out"): ["--device", "cpu", "--preset", "cpu", "--layers", "1"],
}
FILES = {("data export", "--out"), ("eval", "--out")}  # outputs that are one file, not a folder
INPUTS = {"--images", "--root"}  # folders that are read
# These write nothing, or only into the cache or the temporary folder they are given.
READING = {"data check", "cache info", "cache verify", "cache stats", "cache repair", "doctor"}
READING |= {"cache add", "cache drop", "cache order", "status", "compare", "demo"}
LATER = {"rehearse"}  # in FURTHER


def commands(command: click.Command, name: str = "") -> set[str]:
    if isinstance(command, click.Group):
        return {
            found
            for key, sub in command.commands.items()
            for found in commands(sub, f"{name} {key}")
        }
    return {name.strip()}


def test_every_command_is_looked_at() -> None:
    found = {name for name in commands(main) if not name.startswith("bench ")}
    assert found - LATER == WRITING.keys() | READING


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph with a sentence, its cache, and a file that stands in the way."""
    folder = tmp_path_factory.mktemp("place")
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "own.png")
    square = [[5, 5, 40, 5, 40, 40, 5, 40]]
    row = {"image": "own.png", "expression": "the disc", "mask": square}
    (folder / "own.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "file").write_text("in the way")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        made = CliRunner().invoke(
            main,
            ["precompute", "--dataset", "own.jsonl", "--size", "tiny", "--split", "train",
             "--workers", "0", "--out", "cache", "--points-per-side", "4", "--quiet"],
        )  # fmt: skip
    assert made.exit_code == 0, made.output
    return folder


@pytest.mark.parametrize("name", sorted(WRITING))
def test_one_line_names_the_place_and_the_cause(
    place: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(place)
    words = [word.format(bad="file/below/it") for word in WRITING[name]]
    result = CliRunner().invoke(main, [*name.split(), *words])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (1, 2), result.output
    said = result.output.strip().splitlines()[-1]
    assert said.startswith("svp: file") and said.endswith("Not a directory: give another path")


def checked_options() -> list[tuple[str, str, CheckedPath]]:
    """Every option and argument whose path is looked at: command, name, type."""
    return [
        (name, param.opts[0], param.type)
        for name in sorted(commands(main))
        for param in command_of(name).params
        if isinstance(param.type, CheckedPath) and param.type.check is not None
    ]


def command_of(name: str) -> click.Command:
    command: click.Command = main
    for word in name.split():
        assert isinstance(command, click.Group)
        command = command.commands[word]
    return command


def outputs() -> dict[tuple[str, str], list[str]]:
    """(command, option) of every output, with the words of `WRITING`, then of `FURTHER`."""
    found = {}
    for name, words in WRITING.items():
        at = words.index("{bad}")
        option = words[at - 1] if at and words[at - 1].startswith("--") else "out"
        rest = words[: at - (option != "out")] + words[at + 1 :]
        found[name, option] = rest
    return found | FURTHER


def test_every_output_and_every_folder_is_looked_at_first() -> None:
    """A path option is read elsewhere with errors of its own, or it is one of these."""
    found = {(name, option) for name, option, _ in checked_options()}
    looked_at = {(name, option) for name, option in found if option not in INPUTS}
    both = {(name, "--out") for name, option in outputs() if option == "out"}
    assert looked_at == outputs().keys() | both
    for name in commands(main):
        for param in command_of(name).params:
            if param.opts[0] in INPUTS | {"--out", "--page", "--folder", "--dest"} and isinstance(
                param.type, click.Path
            ):
                assert isinstance(param.type, CheckedPath), (name, param.opts)


def refused(name: str, option: str, words: list[str], path: str) -> str:
    """The one line that is said of `path` as this option."""
    given = [path] if option == "out" else [option, path]
    result = CliRunner().invoke(main, [*name.split(), *given, *words])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == (3 if option in INPUTS else 1), result.output
    assert len(result.output.splitlines()) == 1, result.output
    return result.output.strip()


@pytest.mark.parametrize("key", sorted(outputs()), ids=" ".join)
def test_a_file_for_a_folder_or_a_folder_for_a_file_is_one_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, key: tuple[str, str]
) -> None:
    monkeypatch.chdir(place)
    bad, cause = ("cache", "Is a directory") if key in FILES else ("file", "Not a directory")
    said = refused(*key, outputs()[key], bad)
    assert said == f"svp: {bad}: cannot be written: {cause}: give another path"
    assert (place / "file").read_text() == "in the way"
    said = refused(*key, outputs()[key], "file/below/it")
    assert said == "svp: file/below/it: cannot be written: Not a directory: give another path"


@pytest.mark.parametrize("key", sorted({(n, o) for n, o, _ in checked_options() if o in INPUTS}),
                         ids=" ".join)  # fmt: skip
def test_a_folder_to_read_that_is_none_is_one_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, key: tuple[str, str]
) -> None:
    monkeypatch.chdir(place)
    name, option = key
    words = [word for word in WRITING.get(name, ["cache"]) if word not in (option,)]
    words = [word.format(bad="new") for word in words]
    assert refused(name, option, words, "file") == f"svp: {option} file: is a file: give the folder"
    assert refused(name, option, words, "nowhere") == f"svp: {option} nowhere: no such folder"
    assert not (place / "new").exists()


def test_a_command_that_is_only_parsed_looks_at_nothing() -> None:
    """Documents print commands with folders that are the reader's."""
    command = command_of("data check")
    context = command.make_context("check", ["my_data", "--images", "nowhere"])
    assert context.params["images"] == Path("nowhere")


def test_a_default_is_left_to_the_command(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--runs` of a dry run writes nothing, and the default may be what it cannot write."""
    monkeypatch.chdir(place)
    (place / "runs").write_text("in the way")
    try:
        words = ["train", "--from-cache", "cache", "--size", "tiny", "--dry-run"]
        result = CliRunner().invoke(main, words)
    finally:
        (place / "runs").unlink()
    assert result.exit_code == 0, result.output


def test_a_place_that_can_be_made_is_made(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(place)
    out = tmp_path / "new" / "folder" / "own.jsonl"
    assert (
        CliRunner().invoke(main, ["data", "export", "own.jsonl", "--out", str(out)]).exit_code == 0
    )
    assert len(out.read_text().splitlines()) == 1


def test_refusals_name_the_nearest_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for refused in (check_writable, make_folders):
        with pytest.raises(CacheError, match=r"file/a/b: cannot be written: Not a directory"):
            refused(tmp_path / "file" / "a" / "b")
    with pytest.raises(CacheError, match="file: cannot be written: Not a directory"):
        check_writable(tmp_path / "file")
    with pytest.raises(CacheError, match="cannot be written: Is a directory"):
        check_writable(tmp_path, file=True)
    check_writable(tmp_path / "file", file=True)
    check_writable(tmp_path)
    check_writable(tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()
    (tmp_path / "named").mkdir()
    with (
        pytest.raises(CacheError, match="named: cannot be written: Is a directory"),
        writing(tmp_path),
    ):
        (tmp_path / "named").write_text("")


def test_what_the_system_refuses_elsewhere_is_one_line_too(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command's own mistakes keep their traceback; a refused file is none."""
    from svp.pipeline.commands import data as command

    monkeypatch.chdir(place)

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", "some/file")

    monkeypatch.setattr(command.check_command, "callback", refuse)
    result = CliRunner().invoke(main, ["data", "check", "own.jsonl"])
    assert (result.exit_code, result.output) == (1, "svp: some/file: Permission denied\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_an_output_that_is_full_is_one_line(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    code = "import sys; from svp.cli import main; main()"
    words = [sys.executable, "-c", code, "data", "check", "own.jsonl", "--json"]
    with open("/dev/full", "w") as full:
        said = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert said.returncode == 1
    assert said.stderr.splitlines()[-1] == (
        "svp: the output could not be written: No space left on device"
    )


def test_a_reader_that_leaves_is_no_mistake_of_ours(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`svp ... | head -1`: the command ends without a word."""
    monkeypatch.chdir(place)
    code = "import sys; from svp.cli import main; main()"
    reading, writing_end = os.pipe()
    os.close(reading)
    words = [sys.executable, "-c", code, "data", "check", "own.jsonl"]
    said = subprocess.run(words, stdout=writing_end, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing_end)
    assert (said.returncode, said.stderr) == (1, "")


def test_a_working_folder_that_was_removed_is_told(tmp_path: Path) -> None:
    """Before any library looks for it: MKL ends the process there."""
    code = (
        "import os, sys; from pathlib import Path; from svp.cli import main; "
        "Path('gone').mkdir(); os.chdir('gone'); os.rmdir('../gone'); main(['doctor'])"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr == "svp: the current folder: No such file or directory: change to another\n"
