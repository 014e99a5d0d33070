"""A flag that a message names exists, on the command that prints the message."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import svp
from svp.cli import main

ROOT = Path(svp.__file__).parent
FILES = [
    ROOT / "cli.py",
    *(p for d in ("pipeline", "model", "train", "integrations") for p in (ROOT / d).rglob("*.py")),
]
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")


def surface(command: click.Command, name: str = "") -> dict[str, set[str]]:
    """The options of every command by its words."""
    if isinstance(command, click.Group):
        return {
            k: v
            for key, sub in command.commands.items()
            for k, v in surface(sub, f"{name} {key}").items()
        }
    return {name.strip(): {o for p in command.params for o in (*p.opts, *p.secondary_opts)}}


OPTIONS = surface(main)
EVERY = set().union(*OPTIONS.values(), {o for p in main.params for o in p.opts})
READERS = ("data check", "data convert", "data export", "precompute", "train", "eval", "figures")
OTHERS = {  # of other programs: click, docker, pip, accelerate, pytest
    "--help", "--shm-size", "--no-deps", "--num_processes", "--multi_gpu", "--cpu", "--config_file",
    "--use_fsdp", "--fsdp_version", "--config", "--mixed_precision", "--no-input",
    "--disable-pip-version-check",
}  # fmt: skip
# Modules whose messages only one command prints; those of pipeline/sources, every reader of data.
OWN = {
    "pipeline/sources": READERS,
    "pipeline/browse": ("cache browse",),
    "train/eval_": ("eval",),
    "train/runs/held_out.py": ("train",),
    "train/runs/train.py": ("train",),
    "train/runs/predict.py": ("predict",),
    "train/runs/segmenter.py": ("predict",),
    "train/runs/export.py": ("export",),
    "train/figures": ("figures",),
}
# No instances file of COCO has expressions, so nothing that asks for them reads one by split.
WITHOUT = {"--split": {"train", "figures"}}


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """String literals of a file but its docstrings; f-strings with `X` for what is filled in."""
    tree = ast.parse(path.read_text("utf-8"))
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.add(id(node.value))
        if isinstance(node, ast.JoinedStr):
            parts = [p.value if isinstance(p, ast.Constant) else "X" for p in node.values]
            skipped |= {id(part) for part in node.values}
            yield node.lineno, "".join(map(str, parts))
    for node in ast.walk(tree):
        if id(node) not in skipped and isinstance(getattr(node, "value", None), str):
            yield node.lineno, node.value  # type: ignore[attr-defined]


def in_commands(text: str) -> Iterator[tuple[str, str]]:
    """(command, flag) of every `svp COMMAND --flag` in a text."""
    for quoted in re.findall(r"`(svp [^`]*)`", text):
        words = quoted.split()[1:]
        two = " ".join(words[:2])
        name = two if two in OPTIONS else words[0] if words else ""
        if name in OPTIONS:
            for flag in FLAG.findall(quoted):
                yield name, flag


def wrong(path: Path, root: Path = ROOT) -> list[str]:
    """What is named in a file and is not there."""
    found = []
    inside = path.relative_to(root)
    owners = [names for place, names in OWN.items() if str(inside).startswith(place)]
    printers = owners[0] if owners else ()
    for line, text in texts(path):
        for name, flag in in_commands(text):
            if flag not in OPTIONS[name]:
                found.append(f"{inside}:{line}: `svp {name}` has no {flag}")
        rest = re.sub(r"`svp [^`]*`", "", text)
        for flag in FLAG.findall(rest):
            if flag not in EVERY | OTHERS:
                found.append(f"{inside}:{line}: no command has {flag}")
            elif flag not in OTHERS:
                lack = {n for n in printers if flag not in OPTIONS[n]} - WITHOUT.get(flag, set())
                found += [f"{inside}:{line}: {flag} is not an option of {n}" for n in sorted(lack)]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_flag_that_is_named_exists(path: Path) -> None:
    assert wrong(path) == []


def test_the_rule_sees_what_it_should(tmp_path: Path) -> None:
    file = tmp_path / "pipeline" / "sources" / "x.py"
    file.parent.mkdir(parents=True)
    file.write_text(
        '"""--docstrings are left alone."""\n'
        'a = f"{1}: allowed with --allow-nothing"\n'
        'b = "run `svp train --split val`"\n'
        'c = "give the folder with --images"\n'
        'd = "try --retry-quarantined"\n'
    )
    assert wrong(file, tmp_path) == [
        "pipeline/sources/x.py:2: no command has --allow-nothing",
        "pipeline/sources/x.py:3: `svp train` has no --split",
        *(
            f"pipeline/sources/x.py:5: --retry-quarantined is not an option of {name}"
            for name in sorted(READERS)
            if name != "precompute"
        ),
    ]
