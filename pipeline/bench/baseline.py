"""Other packages as baselines, each in a virtual environment of its own.

What they depend on conflicts with this package, or with each other. The bench makes an environment
once per package, lends it torch and whatever else of ours fits its requirements, and talks to a
process in it by pipes.
"""

import json
import logging
import os
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..display import show
from ..io.paths import user_cache

log = logging.getLogger(__name__)

GRACE_S = 20.0  # for a process to end by itself, with what it started
Rates = dict[str, dict[str, float]]  # images per second by reader and order


@dataclass(frozen=True)
class Package:
    """A package to compare with: folder of its environment, its name in reports, what pip installs."""

    name: str
    title: str
    requirement: str


MOSAICML = Package("mosaicml", "MosaicML StreamingDataLoader", "mosaicml-streaming==0.13.0")


class Baseline:
    """The baseline's process; it answers one request after another.

    So its rounds can be run between ours: both see the machine as it is at that moment. `failure`
    says why there are no figures, None if there are.
    """

    def __init__(self, command: Sequence[object], log: Path) -> None:
        self.failure: str | None = None
        self._log = log
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def ask(self, **request: object) -> dict[str, Any]:
        """Its answer, both one line of JSON; nothing once it has failed."""
        pipe, answers = self._process.stdin, self._process.stdout
        assert pipe is not None and answers is not None
        line = ""
        if self.failure is None:
            with suppress(OSError):  # it is gone: its last words are in the log
                pipe.write(json.dumps(request) + "\n")
                pipe.flush()
                line = answers.readline()
            if not line:
                self.failure = last_line(self._log.read_text(errors="replace"))
        return json.loads(line) if line else {}

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def open_baseline(
    package: Package, script: Sequence[object], work: Path, environments: Path | None = None
) -> Iterator[Baseline | str]:
    """A script with its arguments as a process in the package's environment; or why there is none.

    environments  folder of the environments, made once; None: in the user's cache
    """
    home = (environments or (user_cache() or work) / "svp/environments") / package.name
    try:
        python = _environment(package, home)
        # -P: the script's neighbours must not shadow modules of the package.
        baseline = Baseline([python, "-P", *script], work / f"{package.name}.log")
    except (subprocess.CalledProcessError, OSError) as error:
        yield last_line(str(getattr(error, "stderr", "") or error))
        return
    try:
        yield baseline
    finally:
        baseline.close()


def keep_best(rates: Rates, found: Rates) -> None:
    """Raise `rates` to what was found."""
    for name, orders in found.items():
        mine = rates.setdefault(name, {})
        for order, rate in orders.items():
            mine[order] = max(mine.get(order, 0.0), rate)


def last_line(text: str) -> str:
    """The last line of a process's output."""
    return text.strip().splitlines()[-1] if text.strip() else "failed without a message"


def _environment(package: Package, home: Path) -> Path:
    python, ready = home / "bin" / "python", home / "ready"
    made = f"{package.requirement}\n{sys.version}\n"
    if ready.is_file() and ready.read_text() == made:
        return python
    log.info(f"{package.title}: making an environment in {show(str(home), 300)} (once)")
    venv.create(home, with_pip=True, clear=True)
    # Ours comes after its own packages on the path: pip installs only what does not fit.
    [site] = home.glob("lib/python*/site-packages")
    torch = find_spec("torch")
    assert torch is not None and torch.origin is not None
    (site / "zz_borrowed.pth").write_text(f"{Path(torch.origin).parents[1]}\n")
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-input"]
    subprocess.run([*pip, package.requirement], check=True, capture_output=True, text=True)
    ready.write_text(made)
    return python
