"""This tree beside an earlier commit: seconds of the same commands, `make pair BASE=955986b`.

    PYTHONPATH=tests python -m support.pair 955986b precompute train --json pair.json

The commit is checked out into a temporary folder and run by the same Python with the same packages.
Both sides do each part `--rounds` times. Where two cores are free they do so at the same time, each on
one core of its own, which they exchange every round; elsewhere in turns, the first one changing. CPU
seconds are those of a command and of all processes that it waited for. They depend little on other
work of the machine; wall seconds do. No test asserts either.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import click

from support import ROOT

SCENES = ("--images", "200", "--seed", "0")
EXACT = ("--mode", "exact")
HINT = (
    "If the commit needs other packages than this Python has: install it into an environment of its "
    "own, and name that environment's Python by --base-python"
)


@dataclass(frozen=True)
class Seconds:
    """What a command took; `wall` None where only a part of it counts, by its own report."""

    cpu: float
    wall: float | None


@dataclass
class Side:
    """One of the two trees, with a folder for what its commands make.

    python  that runs them; hint: said where one fails; core: the one to stay on, if any
    """

    name: str
    tree: Path
    folder: Path
    python: str
    hint: str = ""
    core: int | None = None
    made: set[str] = field(default_factory=set)
    going: set[int] = field(default_factory=set)  # commands under way
    stopped: bool = False

    def run(
        self, *words: str, inside: str = ".", passes: Sequence[int] = (0,)
    ) -> tuple[Seconds, str]:
        """`svp` of this tree, in a folder of its own, and what it printed. Exits if it fails."""
        work = self.folder / "work" / inside
        work.mkdir(parents=True, exist_ok=True)
        if not (work / "svp").exists():  # `python -m` looks there first
            (work / "svp").symlink_to(self.tree)
        own = ("SVP_", "PYTHON", "VIRTUAL_ENV")
        env = {k: v for k, v in os.environ.items() if not k.startswith(own)}
        env |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as told:
            if self.stopped:
                raise SystemExit(f"{self.name}: stopped")
            start = time.perf_counter()
            process = subprocess.Popen(
                [self.python, "-m", "svp", *words],
                cwd=work, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=told,
                start_new_session=True,
            )  # fmt: skip
            self.going.add(process.pid)
            if self.core is not None:
                os.sched_setaffinity(process.pid, {self.core})
            _, status, used = os.wait4(process.pid, 0)
            self.going.remove(process.pid)
            wall = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0)
            told.seek(0)
            printed, last = out.read(), told.read().strip().splitlines()[-5:]
        if process.returncode not in passes:
            lines = [
                f"{self.name}: svp {' '.join(words)} failed:",
                *last,
                *filter(None, [self.hint]),
            ]
            raise SystemExit("\n".join(lines))
        return Seconds(used.ru_utime + used.ru_stime, wall), printed

    def scenes(self) -> None:
        """Generated scenes in `scenes`, once."""
        self._once("scenes", lambda: self.run("data", "synth", "scenes", *SCENES))

    def cache(self, split: str) -> str:
        """A cache that can be trained on, once."""
        self.scenes()
        name = f"caches/{split}"
        words = (
            "--split",
            split,
            "--out",
            name,
            "--for",
            "train",
            "--mode",
            "fast",
            "--store-sam-embeddings",
        )
        self._once(name, lambda: self.run("precompute", "--dataset", "scenes", *words))
        return name

    def trained(self) -> str:
        """A run of a few steps, once."""
        cache = self.cache("train")
        self._once("runs/few", lambda: _train(self, cache, 20, "runs/few"))
        return "runs/few"

    def stop(self) -> None:
        """End the commands under way, with the processes that they started, and start no more."""
        self.stopped = True
        for leader in tuple(self.going):
            with suppress(ProcessLookupError):
                os.killpg(leader, signal.SIGKILL)

    def _once(self, name: str, make: Callable[[], object]) -> None:
        if name not in self.made:
            make()
            self.made.add(name)


def _train(side: Side, cache: str, steps: int, runs: str) -> Seconds:
    words = ("--from-cache", cache, "--steps", str(steps), "--runs", runs, "--log", "none")
    return side.run("train", *words)[0]


def precompute(side: Side, number: int) -> Seconds:
    side.scenes()
    words = ("--dataset", "scenes", "--split", "train", "--out", f"caches/exact-{number}", *EXACT)
    return side.run("precompute", *words, "--workers", "2")[0]


def superpixels(side: Side, number: int) -> Seconds:
    # 1: a target of the command was missed, which is not the question here.
    printed = side.run("bench", "superpixels", "--scenes", "0", "--json", passes=(0, 1))[1]
    return Seconds(json.loads(printed)["exact"]["total"], None)


def train(side: Side, number: int) -> Seconds:
    return _train(side, side.cache("train"), 100, f"runs/{number}")


def evaluate(side: Side, number: int) -> Seconds:
    runs, cache = side.trained(), side.cache("val")
    words = ("--runs", runs, "--from-cache", cache, "--out", f"results/{number}.jsonl")
    return side.run("eval", *words, "--split", "val")[0]


def quickstart(side: Side, number: int) -> Seconds:
    return side.run("quickstart", inside=f"quickstart-{number}")[0]


@dataclass(frozen=True)
class Part:
    """Something both sides do; `memory`: GB of one side, because they may run at the same time."""

    title: str
    do: Callable[[Side, int], Seconds]
    memory: int = 3


PARTS = {
    "precompute": Part("precompute of 140 of 200 scenes, exact, 2 workers", precompute),
    "superpixels": Part("logits to superpixels, exact, 1,024 prompts", superpixels, memory=11),
    "train": Part("training, 100 steps and the warm start", train),
    "eval": Part("evaluation of 20 scenes", evaluate),
    "quickstart": Part("svp quickstart, the whole", quickstart),
}
QUICK = tuple(name for name in PARTS if name != "quickstart")


def measured(
    part: Part, sides: tuple[Side, Side], rounds: int, cores: list[int]
) -> list[list[Seconds]]:
    """What each side took, by round."""
    took: list[list[Seconds]] = [[], []]
    at_once = len(cores) > 1 and free_memory() > 2 * part.memory
    for number in range(rounds):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        for which, core in zip(order, cores if at_once else (None, None), strict=False):
            sides[which].core = core
        with ThreadPoolExecutor(2 if at_once else 1) as pool:
            going = {which: pool.submit(part.do, sides[which], number) for which in order}
            for which, future in going.items():
                took[which].append(future.result())
    return took


def free_cores() -> list[int]:
    """Two cores of this process if as many are idle, else none."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[-2:] if len(usable) - os.getloadavg()[0] >= 1.5 else []


def free_memory() -> float:
    """GB."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9


@contextmanager
def checkout(commit: str, folder: Path) -> Iterator[Path]:
    """The tree of `commit`, taken from the repository's list of work trees on leaving."""
    git, tree = ["git", "-C", str(ROOT)], folder / "tree"
    subprocess.run([*git, "worktree", "add", "-q", "--detach", str(tree), commit], check=True)
    try:
        yield tree
    finally:
        subprocess.run([*git, "worktree", "remove", "--force", str(tree)], check=True)


def pins(tree: Path) -> dict[str, str]:
    """Versions that constraints.txt pins, by package."""
    lines = (tree / "constraints.txt").read_text().split()
    return dict(line.split("==") for line in lines if line.count("==") == 1)


def other_pins(base: Path) -> str:
    """How the packages of the commit differ from those that both sides run with; empty if not."""
    then, now = pins(base), pins(ROOT)
    other = [
        f"{name} {old} -> {now[name]}" for name, old in then.items() if now.get(name, old) != old
    ]
    return ", ".join(other)


def table(took: dict[str, list[list[Seconds]]], base: str) -> Iterator[str]:
    """Medians, and how many times the CPU seconds of this tree the commit needed."""
    yield f"{'':50}{'CPU s':>20}{'':9}{'wall s':>20}"
    yield f"{'':50}{base[:10]:>11}{'now':>9}{'ratio':>9}{base[:10]:>11}{'now':>9}"
    for name, (then, now) in took.items():
        cpu = [median(one.cpu for one in side) for side in (then, now)]
        walls = [[one.wall for one in side if one.wall is not None] for side in (then, now)]
        wall = [f"{median(side):.1f}" if side else "-" for side in walls]
        line = f"{PARTS[name].title:50}{cpu[0]:11.2f}{cpu[1]:9.2f}{cpu[0] / cpu[1]:8.2f}x"
        yield f"{line}{wall[0]:>11}{wall[1]:>9}"


def plain(took: dict[str, list[list[Seconds]]]) -> dict[str, Any]:
    """For JSON: all rounds of each part."""
    return {
        name: {
            "title": PARTS[name].title,
            "base": [asdict(one) for one in then],
            "now": [asdict(one) for one in now],
        }
        for name, (then, now) in took.items()
    }


def end_on_signals(sides: Iterable[Side]) -> None:
    """Nothing goes on, and nothing is left, after Ctrl-C or SIGTERM."""

    def end(number: int, frame: object) -> None:
        for side in sides:
            side.stop()
        raise SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


@click.command()
@click.argument("base")
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)), metavar="[PART]...")
@click.option("--rounds", type=click.IntRange(min=1), default=2, show_default=True)
@click.option(
    "--base-python", help="Python of an environment of the commit's own. Default: this one."
)
@click.option(
    "--json", "out", type=click.Path(path_type=Path, dir_okay=False), help="File for all values."
)
def main(
    base: str, parts: Sequence[str], rounds: int, base_python: str | None, out: Path | None
) -> None:
    """Seconds of commit BASE and of this tree: precompute, superpixels, train, eval, quickstart.

    Without PART all but quickstart, which takes half an hour.
    """
    cores, took = free_cores(), {}
    with (
        tempfile.TemporaryDirectory(prefix="svp-pair-") as name,
        checkout(base, Path(name)) as tree,
    ):
        folder = Path(name)
        sides = (
            Side(
                base,
                tree,
                folder / "base",
                base_python or sys.executable,
                "" if base_python else HINT,
            ),
            Side("now", ROOT, folder / "now", sys.executable),
        )
        if not base_python and (other := other_pins(tree)):
            click.echo(f"note: {base} runs with packages of other versions than its own: {other}")
        end_on_signals(sides)
        how = f"at the same time on cores {cores[0]} and {cores[1]}" if cores else "in turns"
        load = os.getloadavg()[0]
        click.echo(f"{base} and now {how}, rounds: {rounds}, load average {load:.1f}")
        for part in parts or QUICK:
            took[part] = measured(PARTS[part], sides, rounds, cores)
            click.echo("\n".join(table({part: took[part]}, base)))
            if out:
                told = {"base": base, "load": load, "cores": cores, "parts": plain(took)}
                out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
