"""Blocks of commands, run one after the other in a folder of stand-ins, and what came of them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .server import LINE, Server

TAIL = 25  # lines of a failed block's output that are shown


@dataclass(frozen=True)
class Step:
    """A script for `bash -e`; with `file`, its line numbers are those of that document."""

    name: str
    script: str
    file: str = ""

    def first(self, line: int) -> int:
        """The line a command begins at; the shell may tell another of a continued one's."""
        lines = self.script.splitlines()
        while 1 < line <= len(lines) and lines[line - 2].endswith("\\"):
            line -= 1
        return line

    def command(self, line: int) -> str:
        """The command that begins at `line`, "" if there is no such line."""
        found: list[str] = []
        for text in self.script.splitlines()[line - 1 if line else len(self.script) :]:
            found.append(text.removesuffix("\\").strip())
            if not text.endswith("\\"):
                break
        return " ".join(found)


@dataclass
class Outcome:
    """What came of a step. `commands` are (place, command, exit code, seconds)."""

    step: Step
    code: int
    seconds: float
    output: str
    commands: list[tuple[str, str, int, float]] = field(default_factory=list)
    line: int = 0

    @property
    def failure(self) -> str:
        """`README.md:57: svp eval ...: exit code 2` with the end of its output; "" if it passed."""
        if self.code == 0:
            return ""
        where = f"{self.step.file}:{self.line}" if self.step.file else self.step.name
        shown = self.step.command(self.line) or self.step.name
        tail = "\n".join(f"    {line}" for line in self.output.splitlines()[-TAIL:])
        return f"{where}: {shown}: exit code {self.code}\n{tail}"


def walk(
    steps: Sequence[Step], folder: Path, env: dict[str, str], say: Callable[[str], None]
) -> list[Outcome]:
    """Run every step in `folder`, also after one failed; the outcome of each."""
    server = Server(folder)
    outcomes = []
    try:
        for step in steps:
            outcome = _run(step, folder, env, server)
            outcomes.append(outcome)
            say(f"{'failed' if outcome.code else 'ok':6} {outcome.seconds:6.1f} s  {step.name}")
            if outcome.failure:
                say(outcome.failure)
    finally:
        server.close()
    return outcomes


def _run(step: Step, folder: Path, env: dict[str, str], server: Server) -> Outcome:
    scripts = folder / "bin" / "steps"
    scripts.mkdir(exist_ok=True)
    script = scripts / "step.sh"
    script.write_text(step.script)
    log = scripts / "log.txt"
    # The trap tells every command its line; the shell itself says where it stopped.
    start = f"trap 'export {LINE}=$LINENO' DEBUG; trap 'echo $LINENO >&9' ERR; . {script}"
    stopped = scripts / "stopped"
    inherited = {**os.environ, **server.environment(), **env}
    inherited["PATH"] = os.pathsep.join(
        (str(folder / "bin"), str(Path(sys.executable).parent), os.environ.get("PATH", ""))
    )
    before, began = len(server.ran), time.monotonic()
    with open(log, "wb") as out, open(stopped, "wb") as end:
        shell = subprocess.Popen(
            ["bash", "-eTE", "-c", f"exec 9>{stopped}; {start}"],
            cwd=folder, env=inherited, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            start_new_session=True,
        )  # fmt: skip
        del end
        try:
            server.serve(lambda: shell.poll() is not None)
        finally:
            if shell.poll() is None:
                os.killpg(shell.pid, signal.SIGKILL)
    seconds = time.monotonic() - began
    lines = stopped.read_text().split()
    named = step.file or step.name
    commands = [
        (f"{named}:{step.first(ran.line)}", " ".join(("svp", *ran.words)), ran.code, ran.seconds)
        for ran in server.ran[before:]
    ]
    code = shell.returncode or 0
    return Outcome(
        step, code, seconds, log.read_text(errors="replace"), commands,
        line=step.first(int(lines[-1])) if code and lines else 0,
    )  # fmt: skip
