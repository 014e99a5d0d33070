"""MosaicML's streaming reader as a rival, in an environment of its own.

It pins older numpy and transformers than this package, so it can never share our environment. The
bench makes a small one once, borrows torch from ours, and talks to it through files and JSON.
"""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PACKAGES = ["numpy<2.2", "boto3", "Brotli", "python-snappy", "xxhash", "zstd", "catalogue", "tqdm"]
SCRIPT = Path(__file__).with_name("mosaic_script.py")


def run_mosaic(
    work: Path,
    features: NDArray[np.float16],
    reps: int,
    environment: Path | None,
    say: Callable[[str], None],
    script: Path = SCRIPT,
) -> dict[str, dict[str, float]] | str:
    """Images per second by name and order, as `script` prints them; or why there are none."""
    home = environment or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / (
        "svp/mosaic-venv"
    )
    try:
        python = _environment(home, say)
        say("MosaicML: writing and reading")
        done = subprocess.run(
            [python, script, work / "mds", work / "features.npy", str(reps)],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    except (subprocess.CalledProcessError, OSError) as error:
        output = str(getattr(error, "stderr", "") or error)
        return output.strip().splitlines()[-1] if output.strip() else "failed without a message"
    found: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def _environment(home: Path, say: Callable[[str], None]) -> Path:
    python = home / "bin" / "python"
    if (home / "ready").exists():
        return python
    say(f"MosaicML: making an environment in {home} (once)")
    venv.create(home, with_pip=True, clear=True)
    pip = [str(python), "-m", "pip", "install", "-q"]
    subprocess.run([*pip, *PACKAGES], check=True, capture_output=True, text=True)
    subprocess.run(
        [*pip, "--no-deps", "mosaicml-streaming"], check=True, capture_output=True, text=True
    )
    # torch and torchvision come from our environment, after the rival's own packages on the path.
    [site] = home.glob("lib/python*/site-packages")
    borrowed = sysconfig.get_paths()["purelib"]
    (site / "zz_borrowed.pth").write_text(borrowed + "\n")
    (home / "ready").write_text(f"{sys.version}\n")
    return python
