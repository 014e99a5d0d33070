"""The documents' commands: found, classified, and checked against the command line itself."""

import shutil
from pathlib import Path

import pytest

import svp
from svp.cli import main
from svp.pipeline.datasets import open_dataset
from svp.pipeline.datasets.scenes import write_scenes
from svp.train.cli_defaults import SEED
from svp.train.rehearse.documents import Block, check_documents, documents, read_blocks, strays
from svp.train.rehearse.extras import check_extras
from svp.train.rehearse.left_out import CI, EXCEPTIONS

ROOT = Path(svp.__file__).parent


def written(tmp_path: Path, text: str) -> list[Block]:
    path = tmp_path / "README.md"
    path.write_text(text)
    return read_blocks(path, "README.md")


def test_every_documented_command_exists() -> None:
    assert check_documents(ROOT, main) == []


def test_a_flag_renamed_in_the_readme_is_named_with_its_line(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    old = "svp train --size paper --from-cache"
    text = (ROOT / "README.md").read_text()
    assert old in text
    (tmp_path / "README.md").write_text(text.replace(old, f"{old[:-5]}store", 1))
    lines = (tmp_path / "README.md").read_text().splitlines()
    (number,) = [n for n, line in enumerate(lines, 1) if "--from-store" in line]
    (problem,) = check_documents(tmp_path, main)
    assert problem.startswith(f"README.md:{number}: svp train --size paper --from-store")
    assert "No such option" in problem


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("svp precomputed --split train", "No such command"),
        ("svp precompute --split", "requires an argument"),
        ("svp precompute --mode quick", "'quick' is not one of"),
        ("svp data convert PATH OUT", "Missing option '--out'"),
        ("svp eval --protocol glamm ...", "ellipsis"),
        ("accelerate launch --num_processes 2 -m svp train --bogus", "No such option"),
        ("SVP_SIZE=tiny svp train --bogus # why", "No such option"),
        ("for s in val test; do svp eval --splits $s; done", "No such option"),
        ("true && svp train --bogus", "No such option"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, line: str, wrong: str) -> None:
    (tmp_path / "README.md").write_text(f"# x\n\n```sh\n{line}\n```\n")
    (problem,) = check_documents(tmp_path, main)
    assert problem.startswith("README.md:4: ") and wrong in problem


def test_right_commands_have_no_fault(tmp_path: Path) -> None:
    text = (
        "```sh\nsvp --version\nsvp train --size paper \\\n    --from-cache c --dry-run  # --bogus\n"
        "for split in val test; do\n  svp eval --split $split\ndone\n"
        "svp predict a.jpg 'the man --left'\n```\n"
    )
    (block,) = written(tmp_path, text)
    assert [c.line for c in block.commands] == [2, 3, 6, 8]
    assert block.commands[2].words == ("svp", "eval", "--split", "val")
    assert check_documents(tmp_path, main) == []


def test_a_command_outside_a_block_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.md"
    path.write_text("svp is\n\n    svp train --x\n\n```text\nsvp cache info\n```\n")
    assert strays(path, "x.md") == [
        "x.md:3: svp train --x: a command outside an sh block",
        "x.md:6: svp cache info: a command outside an sh block",
    ]


def test_a_script_keeps_the_documents_lines_and_leaves_exceptions_out(tmp_path: Path) -> None:
    text = "# t\n\n```sh\nsvp fetch vit_h \\\n  --dest w\nsvp --version\npip install x\n```\n"
    (block,) = written(tmp_path, text)
    assert block.script().rstrip().splitlines() == ["", "", "", "", "", "svp --version"]
    assert [bool(c.reason) for c in block.commands] == [True, False, True]


def test_what_is_asked_of_a_generated_scene_is_in_it(tmp_path: Path) -> None:
    """The first prediction a newcomer sees is of a thing that the scene holds, and no other."""
    asked = [
        (Path(command.words[2]).name, command.words[3])
        for path in documents(ROOT)
        for block in read_blocks(path, path.name)
        for command in block.commands
        if command.words[:2] == ("svp", "predict") and command.words[2].startswith("data/")
    ]
    assert asked
    highest = max(int(name[-10:-4]) for name, _ in asked)
    scenes = write_scenes(
        tmp_path / "scenes", images=highest + 1, seed=SEED, splits={"testA": highest + 1}
    )
    source = open_dataset(scenes, split="testA")
    ids = {image.path: image.image_id for image in source.images}
    for name, text in asked:
        sentences = [s.sent for s in source.sentences if s.image_id == ids[name]]
        assert text in sentences, (name, sentences)


def test_every_exception_is_printed_somewhere() -> None:
    texts = [
        command.text
        for path in documents(ROOT)
        for block in read_blocks(path, path.name)
        for command in block.commands
    ]
    for start, _ in EXCEPTIONS:
        assert any(text.startswith(start) for text in texts), f"{start}: no document prints it"


def test_what_is_left_to_ci_is_there() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    for start in [start for start, why in EXCEPTIONS if why == CI]:
        assert start in script or start in ("make test", "make check", "make check-long"), start
    for part in ("make lint type", "make test", "tests/test_package.py", "make rehearse"):
        assert part in script
    assert "check: lint type test wheel" in (ROOT / "Makefile").read_text()  # so `make test` runs


def test_readme_begins_with_the_two_commands_of_ci() -> None:
    first = read_blocks(ROOT / "README.md", "README.md")[0]
    assert [c.text for c in first.commands] == ["make superpixels", "make test"]


def test_extras_bring_what_the_walk_imports(tmp_path: Path) -> None:
    assert check_extras(ROOT) == []
    text = (ROOT / "setup.cfg").read_text()
    lines = [line for line in text.splitlines() if not line.strip().startswith("sentencepiece")]
    (tmp_path / "setup.cfg").write_text("\n".join(lines))
    (problem,) = check_extras(tmp_path)
    assert "extra train lacks sentencepiece" in problem
    assert problem.startswith(f"setup.cfg:{lines.index('train =') + 1}:")
