"""Check that the extras of setup.cfg provide every imported package."""

import configparser
import re
from pathlib import Path

# Packages the walk's commands import, by distribution, and an extra that must bring each.
NEEDED = {
    "accelerate": "train",
    "matplotlib": "figures",
    "peft": "train",
    "protobuf": "train",
    "scikit-image": "slic",
    "sentencepiece": "train",
    "tensorboard": "train",
    "timm": "timm",
}


def check_extras(root: Path) -> list[str]:
    """`setup.cfg: extra train lacks sentencepiece ...` for everything that an extra should bring."""
    config = configparser.ConfigParser()
    config.read(root / "setup.cfg")
    extras = config["options.extras_require"]
    problems = []
    for package, extra in NEEDED.items():
        if package not in _names(extras.get(extra, "")):
            problems.append(
                f"setup.cfg:{_line(root, extra)}: extra {extra} lacks {package}, which the "
                "commands of the documents import"
            )
    return problems


def _names(text: str) -> set[str]:
    found = (re.match(r"[A-Za-z0-9_.-]+", line.strip()) for line in text.splitlines())
    return {match[0].lower() for match in found if match}


def _line(root: Path, extra: str) -> int:
    lines = (root / "setup.cfg").read_text().splitlines()
    starts = (n for n, line in enumerate(lines, 1) if re.match(rf"{extra}\s*=", line))
    return next(starts, 0)
