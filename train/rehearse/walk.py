"""Run blocks of commands in a folder of stand-ins and record their outcomes."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from .server import LINE, STEP, Server

log = logging.getLogger(__name__)

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
    """Outcome of a step. `commands` are (place, command, exit code, seconds)."""

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
    chains: Sequence[Sequence[Step]],
    folder: Path,
    env: dict[str, str],
    main: click.Command,
    at_once: int = 2,
    free: int | None = None,
) -> list[Outcome]:
    """Run the steps of every chain in order, also after one failed.

    at_once  steps that run at one time, of as many chains; chains begin in the order they have here
    free     how many chains wait for no other: those behind them begin when the first one has ended
    main     what `svp` in a step runs
    """
    server = Server(folder, main)
    waiting = [list(chain) for chain in chains]
    begun = 0
    running: dict[int, _Running] = {}
    outcomes: list[Outcome] = []
    try:
        while any(waiting) or running:
            for chain, steps in enumerate(waiting):
                held = free is not None and chain >= free and (waiting[0] or 0 in running)
                if steps and not held and chain not in running and len(running) < at_once:
                    running[chain] = _Running(steps.pop(0), begun, folder, env, server)
                    begun += 1
            server.serve(lambda: any(each.ended for each in running.values()))
            for chain, each in list(running.items()):
                if each.ended:
                    del running[chain]
                    outcomes.append(each.outcome(server))
                    _tell(outcomes[-1])
    finally:
        for each in running.values():
            each.kill()
        server.close()
    return outcomes


def _tell(outcome: Outcome) -> None:
    word = "failed" if outcome.code else "ok"
    log.info(f"{word:6} {outcome.seconds:6.1f} s  {outcome.step.name}")
    if outcome.failure:
        log.info(outcome.failure)


class _Running:
    """A step under way in a shell of its own."""

    def __init__(
        self, step: Step, number: int, folder: Path, env: dict[str, str], server: Server
    ) -> None:
        scripts = folder / "bin" / "steps"
        scripts.mkdir(exist_ok=True)
        self.step, self._number = step, str(number)
        script = scripts / f"{number}.sh"
        script.write_text(step.script)
        self._log, self._stopped = scripts / f"{number}.log", scripts / f"{number}.stopped"
        # The trap tells every command its line; the shell itself says where it stopped.
        start = f"trap 'export {LINE}=$LINENO' DEBUG; trap 'echo $LINENO >&9' ERR; . {script}"
        inherited = {**os.environ, **server.environment(), **env, STEP: self._number}
        inherited["PATH"] = os.pathsep.join(
            (str(folder / "bin"), str(Path(sys.executable).parent), os.environ.get("PATH", ""))
        )
        self._began = time.monotonic()
        with open(self._log, "wb") as out:
            self._shell = subprocess.Popen(
                ["bash", "-eTE", "-c", f"exec 9>{self._stopped}; {start}"],
                cwd=folder, env=inherited, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip

    @property
    def ended(self) -> bool:
        """Whether its shell is done."""
        return self._shell.poll() is not None

    def kill(self) -> None:
        """End it and what it started, but for what the server runs."""
        if not self.ended:
            os.killpg(self._shell.pid, signal.SIGKILL)
            self._shell.wait()

    def outcome(self, server: Server) -> Outcome:
        """Outcome of the step, once it has ended."""
        step, code = self.step, self._shell.returncode or 0
        named = step.file or step.name
        commands = [
            (
                f"{named}:{step.first(ran.line)}",
                " ".join(("svp", *ran.words)),
                ran.code,
                ran.seconds,
            )
            for ran in server.ran
            if ran.step == self._number
        ]
        lines = self._stopped.read_text().split()
        return Outcome(
            step, code, time.monotonic() - self._began, self._log.read_text(errors="replace"),
            commands, line=step.first(int(lines[-1])) if code and lines else 0,
        )  # fmt: skip
