"""MosaicML Streaming reader as a baseline, in its own virtual environment.

It pins older numpy and transformers than this package, so it can never share our environment. The
bench makes a small one once, borrows torch from ours, and talks to a process in it by pipes.
"""

import json
import logging
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..io.paths import user_cache

log = logging.getLogger(__name__)

Rates = dict[str, dict[str, float]]  # images per second by reader and order
PACKAGES = ["numpy<2.2", "boto3", "Brotli", "python-snappy", "xxhash", "zstd", "catalogue", "tqdm"]
SCRIPT = Path(__file__).with_name("mosaic_baseline_script.py")


class Baseline:
    """The baseline's process; it measures one round per request.

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

    def round(self) -> Rates:
        """Images per second by name and order of one round; nothing once it has failed."""
        pipe, answers = self._process.stdin, self._process.stdout
        assert pipe is not None and answers is not None
        line = ""
        if self.failure is None:
            with suppress(OSError):  # it is gone: its last words are in the log
                pipe.write("\n")
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
        self._process.wait()


@contextmanager
def open_baseline(
    work: Path, environment: Path | None, script: Path = SCRIPT
) -> Iterator[Baseline | str]:
    """`script` as a baseline over `work`/features.npy, in an environment made once; or why not."""
    home = environment or (user_cache() or work) / "svp/mosaic-venv"
    try:
        python = _environment(home)
        baseline = Baseline(
            [python, script, work / "mds", work / "features.npy"], work / "mosaic.log"
        )
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


def _environment(home: Path) -> Path:
    python = home / "bin" / "python"
    if (home / "ready").exists():
        return python
    log.info(f"MosaicML: making an environment in {home} (once)")
    venv.create(home, with_pip=True, clear=True)
    pip = [str(python), "-m", "pip", "install", "-q"]
    subprocess.run([*pip, *PACKAGES], check=True, capture_output=True, text=True)
    subprocess.run(
        [*pip, "--no-deps", "mosaicml-streaming"], check=True, capture_output=True, text=True
    )
    # torch and torchvision come from our environment, after the baseline's own packages on the path.
    [site] = home.glob("lib/python*/site-packages")
    borrowed = sysconfig.get_paths()["purelib"]
    (site / "zz_borrowed.pth").write_text(borrowed + "\n")
    (home / "ready").write_text(f"{sys.version}\n")
    return python
