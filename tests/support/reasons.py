"""The codes of the quarantine list as docs/data.md documents them."""

import re
from pathlib import Path

import svp


def documented_reasons() -> frozenset[str]:
    """First column of every table headed `| reason | meaning |`."""
    text = (Path(svp.__file__).parent / "docs/data.md").read_text(encoding="utf-8")
    tables = re.findall(r"^\| reason \| meaning \|\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    first = [line.split("|")[1] for table in tables for line in table.splitlines()]
    return frozenset(code for cell in first for code in re.findall(r"`([^`]+)`", cell))
