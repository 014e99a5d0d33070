"""Copy of the running svp for the machines of a cluster that have none, or another one."""

import shutil
from pathlib import Path

TOP = (
    "__init__.py",
    "__main__.py",
    "cli.py",
    "py.typed",
    "pipeline",
    "model",
    "train",
    "integrations",
    "workflows",
)
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", "pretrain_tiny")


def package_copy(folder: Path) -> Path:
    """Copy what a wheel of svp holds into `folder`/svp, and return that."""
    here, there = Path(__file__).parents[2], folder / "svp"
    there.mkdir()
    for name in TOP:
        if (here / name).is_dir():
            shutil.copytree(here / name, there / name, ignore=LEFT_OUT)
        else:
            shutil.copy(here / name, there / name)
    return there
