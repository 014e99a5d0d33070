"""Provenance of a result: commit, library versions, environment."""

import os
import platform
import subprocess
from pathlib import Path

from ..pipeline.process import installed, this_command


def commit() -> str:
    """The git commit of the code that runs, "" where the package is no checkout."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return ""
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip()


LIBRARIES = ("svp", "torch", "transformers", "peft", "accelerate", "numpy", "safetensors", "zarr")


VARIABLES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "WORLD_SIZE",
             "LOCAL_WORLD_SIZE", "SLURM_JOB_ID", "ACCELERATE_CONFIG_FILE")  # fmt: skip


def environment() -> dict[str, object]:
    """Versions and machine; of the environment's variables only those of `VARIABLES`."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "gpus": gpus,
        "libraries": libraries(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "command": this_command(),
    }


def libraries() -> dict[str, str]:
    """Installed versions of the packages that shape a result."""
    found = {name: installed(name) for name in LIBRARIES}
    return {name: version for name, version in found.items() if version != "none"}
