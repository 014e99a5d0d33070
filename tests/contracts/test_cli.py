"""The command line is a contract: its surface is a snapshot, its exit codes and errors are fixed."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from svp.cli import main

SNAPSHOT = Path(__file__).with_name("cli.json")


def surface(command: click.Command, name: str = "svp") -> dict[str, list[str]]:
    """Every command with its options and arguments, sorted."""
    if isinstance(command, click.Group):
        found: dict[str, list[str]] = {}
        for key, sub in command.commands.items():
            found |= surface(sub, f"{name} {key}")
        return found
    names = (opt for param in command.params for opt in (*param.opts, *param.secondary_opts))
    return {name: sorted(names)}


def svp(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_surface_is_the_snapshot() -> None:
    """On a wanted change: python -m pytest tests/contracts/test_cli.py, then copy the left side."""
    assert surface(main) == json.loads(SNAPSHOT.read_text())


def valued(command: click.Command, name: str = "svp") -> Iterator[tuple[str, str, bool]]:
    """Every option and argument that takes text or a path: command, its name, whether an option."""
    if isinstance(command, click.Group):
        for key, sub in command.commands.items():
            yield from valued(sub, f"{name} {key}")
        return
    for param in command.params:
        if isinstance(param.type, click.Path | click.types.StringParamType):
            yield name, param.opts[0], isinstance(param, click.Option)


def test_an_empty_value_is_refused_everywhere() -> None:
    """As a path it would be the current folder, and a cache or a data set would be made of that."""
    found = list(valued(main))
    assert {("svp data check", "path", False), ("svp predict", "--out", True)} <= set(found)
    for command, param, is_option in found:
        words = command.split()[1:]
        for value in ("", " "):
            forms = [[param, value], [f"{param}={value}"]] if is_option else [[value]]
            for form in forms:
                result = svp(*words, *form)
                assert result.exit_code == 2, (command, form, result.output)
                assert "empty value" in result.output, (command, form, result.output)
    assert "empty value after --out" in svp("precompute", "--out", "").output
    assert "empty value after --out" in svp("precompute", "--out=").output


def test_every_command_explains_itself() -> None:
    for name in surface(main):
        result = svp(*name.split()[1:], "--help")
        assert result.exit_code == 0
        assert result.output.splitlines()[2].strip(), name


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("precompute", "--bogus"), 2, "No such option"),
        (("precompute", "--shards", "5:2"), 2, "A:B"),
        (("precompute", "--dataset", "nowhere/at/all"), 3, "nowhere/at/all"),
        (("cache", "info", "nowhere"), 3, "not a cache"),
        (("cache", "verify", "nowhere"), 3, "not a cache"),
        (("data", "export", "nowhere", "--out", "x"), 3, "nowhere"),
        (("fetch", "sam_vit_x"), 2, "sam_vit_x"),
        (("precompute", "--price", "a100", "100", "--set", "batch=0"), 2, "batch=0"),
    ],
)
def test_exit_codes_and_messages(
    arguments: tuple[str, ...],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = svp(*arguments)
    assert result.exit_code == code, result.output
    assert message in result.output
    assert "Traceback" not in result.output


def test_price_of_the_papers_setting_needs_nothing() -> None:
    words = ("precompute", "--size", "paper", "--price", "a100", "82783", "--json")
    result = svp(*words, "--for", "look")
    assert result.exit_code == 0, result.output
    price = json.loads(result.output)
    assert price["shards"] == 1294
    assert price["bytes"]["dino"] == 82783 * (576 * 1024 * 2 + 4) + 1294 * (64 * 16 + 4)
    with_sam = svp(*words)
    extra = json.loads(with_sam.output)["bytes"]["sam"]
    assert extra == 82783 * (256 * 64 * 64 * 2 + 4) + 1294 * (64 * 16 + 4)


@pytest.mark.parametrize(
    "words",
    [
        ("data", "synth", "here", "--images", "10"),
        ("data", "synth", "--out", "here", "--images", "10"),
    ],
)
def test_a_folder_to_write_is_named_alone_or_with_out(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = svp(*words)
    assert result.exit_code == 0 and (tmp_path / "here/images").is_dir(), result.output


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("data", "synth"), 2, "no OUT given: give OUT once"),
        (("data", "synth", "a", "--out", "b"), 2, "Error: give OUT once"),
        (("figures", "runs/none"), 3, "runs/none: no such run folder"),
        (("export",), 2, "give OUT once"),
        (("precompute", "nowhere/at/all"), 3, "nowhere/at/all"),
        (("precompute", "a", "--dataset", "b"), 2, "give DATASET once"),
        (("precompute", "nowhere/at/all", "--plan"), 3, "nowhere/at/all"),
        (("train", "--plan", "--recipe", "nothere.yaml"), 3, "nothere.yaml"),
        (("doctor", "--from-cache", "nowhere"), None, ""),
        (("predict", "nope.jpg", "a disc"), 3, "nope.jpg"),
    ],
)
def test_one_name_for_one_thing(
    words: tuple[str, ...], code: int | None, message: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    result = svp(*words)
    assert message in result.output and "No such option" not in result.output, result.output
    assert code is None or result.exit_code == code


@pytest.mark.parametrize("name", ["SECURITY.md", "docs/security.md", "docs/evaluation.md"])
def test_options_that_the_docs_name_exist(name: str) -> None:
    known = {option for options in surface(main).values() for option in options}
    known |= {option for param in main.params for option in param.opts}
    text = (Path(__file__).parents[2] / name).read_text(encoding="utf-8")
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) <= known


def test_json_is_all_there_is_on_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries that print while they are loaded would make the record unreadable."""
    from svp.pipeline.doctor import examine

    class Report:
        exit_code = 0

        def to_json(self) -> dict[str, int]:
            return {"found": 1}

    def loud(*arguments: object, **options: object) -> Report:
        print("[WARNING] a library says hello")
        return Report()

    monkeypatch.setattr(examine, "examine", loud)
    done = CliRunner().invoke(main, ["doctor", "--json"])
    assert json.loads(done.stdout) == {"found": 1}
    assert "hello" in done.stderr
