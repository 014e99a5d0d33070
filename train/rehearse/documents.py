"""Commands printed in README.md and docs/*.md: extract, classify, check against `svp`.

Commands stand in fenced blocks marked `sh`, each of which can be pasted whole into `bash -e`.
Invariant: every command of every such block is either run by the rehearsal as it is printed, or in
`left_out.EXCEPTIONS` with a reason; a command that is printed anywhere else is an error.
"""

import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import click

from .left_out import reason_for

PROGRAMS = ("svp", "make", "accelerate", "pip", "python", "hf", "git", "docker", "sbatch", "ray",
            "lmms-eval")  # fmt: skip
_FENCE = re.compile(r"^(\s*)```(\w*)\s*$")
_STRAY = re.compile(r"^(    |\t)?(\$ )?(svp [a-z]|accelerate launch)")
_LOOP = re.compile(r"^for (\w+) in (.+)$")
_ASSIGNMENT = re.compile(r"^\w+=")


@dataclass(frozen=True)
class Command:
    """One simple command. `line` counts from 1; `words` are unquoted, variables as printed."""

    file: str
    line: int
    words: tuple[str, ...]

    @property
    def place(self) -> str:
        """README.md:57."""
        return f"{self.file}:{self.line}"

    @property
    def program(self) -> str:
        """`svp`, also behind `accelerate launch ... -m svp`."""
        return self.words[0]

    @property
    def text(self) -> str:
        """As one line."""
        return " ".join(self.words)

    @property
    def svp(self) -> tuple[str, ...] | None:
        """The words after `svp`, of this program or of one that launches it; None without."""
        if self.program == "svp":
            return self.words[1:]
        for index in range(len(self.words) - 1):
            if self.words[index : index + 2] == ("-m", "svp"):
                return self.words[index + 2 :]
        return None

    @property
    def reason(self) -> str:
        """Reason why the rehearsal skips it, or ""."""
        return reason_for(self.text)


@dataclass(frozen=True)
class Block:
    """A fenced `sh` block: its first line (from 1), its text, its commands."""

    file: str
    line: int
    text: str
    commands: tuple[Command, ...]

    @property
    def place(self) -> str:
        """README.md:55, its first line."""
        return f"{self.file}:{self.line}"

    def script(self) -> str:
        """Its text for `bash -e`, at the line numbers of the document, without the exceptions."""
        lines = self.text.splitlines()
        for command in self.commands:
            if command.reason:
                for number in _reach(lines, command.line - self.line):
                    lines[number] = ""
        return "\n" * (self.line - 1) + "\n".join(lines) + "\n"


def documents(root: Path) -> list[Path]:
    """README.md first, then docs/*.md by name."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def read_blocks(path: Path, name: str) -> list[Block]:
    """The `sh` blocks of a document in order; `name` is what messages call it."""
    blocks, inside, start = [], "", 0
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        fence = _FENCE.match(line)
        if fence and not inside:
            inside, start = fence[2] or "text", number + 1
        elif fence:
            if inside == "sh":
                blocks.append(_block(name, start, lines[start - 1 : number - 1]))
            inside = ""
    return blocks


def strays(path: Path, name: str) -> list[str]:
    """Places with a command of `svp` outside an `sh` block, where the rehearsal would not run it."""
    found, inside = [], ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if fence:
            inside = "" if inside else fence[2] or "text"
        elif inside != "sh" and _STRAY.match(line) and (inside or line[0] in " \t"):
            found.append(f"{name}:{number}: {line.strip()}: a command outside an sh block")
    return found


def _block(name: str, start: int, lines: list[str]) -> Block:
    loop: dict[str, str] = {}
    commands = []
    for number, line in _whole_lines(lines):
        for words in _simple(line):
            if match := _LOOP.match(" ".join(words)):
                loop[match[1]] = shlex.split(match[2])[0]
                continue
            words = [_filled(word, loop) for word in words]
            if words and words[0] in PROGRAMS:
                commands.append(Command(name, start + number, tuple(words)))
    return Block(name, start, "\n".join(lines), tuple(commands))


def _whole_lines(lines: list[str]) -> Iterator[tuple[int, str]]:
    """(index of its first line, text) of every line, continued ones joined."""
    held, first = "", 0
    for number, line in enumerate(lines):
        first = first if held else number
        if line.endswith("\\"):
            held += line[:-1] + " "
            continue
        yield first, held + line
        held = ""


def _simple(line: str) -> Iterator[list[str]]:
    """The simple commands of a shell line, without keywords, assignments and comments."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word and set(word) <= set(";&|"):
            if words:
                yield words
            words = []
        elif words or not (word in ("do", "done", "then", "fi", "time") or _ASSIGNMENT.match(word)):
            words.append(word)


def _filled(word: str, values: dict[str, str]) -> str:
    """Variables of a loop with their first value."""
    return re.sub(r"\$\{?(\w+)\}?", lambda m: values.get(m[1], m[0]), word)


def _reach(lines: list[str], first: int) -> range:
    """Indices of a command's lines, continued ones with it."""
    last = first
    while lines[last].endswith("\\"):
        last += 1
    return range(first, last + 1)


def fault(command: Command, main: click.Command) -> str:
    """Fault of a command of `svp` (`main`) by its own definition, or ""; nothing is run."""
    arguments = command.svp
    if arguments is None:
        return ""
    if "..." in arguments:
        return "an ellipsis cannot be pasted: print the whole command"
    try:
        with redirect_stdout(StringIO()):  # --help and --version answer while they are parsed
            _parse(main, "svp", list(arguments))
    except click.exceptions.Exit:
        return ""
    except click.ClickException as error:
        return error.format_message()
    return ""


def _parse(command: click.Command, name: str, arguments: list[str]) -> None:
    """Raise what click raises for arguments of `command`; runs nothing but their conversion."""
    with command.make_context(name, list(arguments), resilient_parsing=False) as context:
        if not isinstance(command, click.Group):
            return
        rest = [*context._protected_args, *context.args]
        found, inner, more = command.resolve_command(context, rest)
    assert found is not None and inner is not None
    _parse(inner, found, more)


def check_documents(root: Path, main: click.Command) -> list[str]:
    """Every fault of every document, by the command line `main`: `FILE:LINE: command: what`."""
    problems = []
    for path in documents(root):
        name = str(path.relative_to(root))
        problems += strays(path, name)
        for block in read_blocks(path, name):
            for command in block.commands:
                if wrong := fault(command, main):
                    problems.append(f"{command.place}: {command.text}: {wrong}")
    return problems


def printed_files(path: Path) -> dict[str, str]:
    """Python files a document prints: a `python` block that begins with `# NAME.py`, or stands
    under a line that ends in `NAME.py`:.
    """
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"`(\w+\.py)`:\n\n```python\n(.*?)```", text, re.DOTALL)
    headed = re.findall(r"```python\n(?=# (\w+\.py)\n)(.*?)```", text, re.DOTALL)
    return dict(named + headed)
