"""T17: a version-1 cache in the repository must read for ever, to the bit.

Made once with the builders of conftest.py; never make it again under the same version.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from svp.pipeline.cache import CacheReader, Plan, verify

HOME = Path(__file__).parents[2] / "fixtures" / "cache_v1"
NAMES = ["float16", "int8"]


def digests(path: Path) -> dict[str, str]:
    """sha256 of all a reader returns, by row."""
    reader = CacheReader(path, verify="always")
    found: dict[str, str] = {}
    for i in range(len(reader)):
        if reader.status(i) != "ok":
            found[str(i)] = reader.status(i)
            continue
        pixels = reader.superpixels(i)
        parts: list[NDArray[Any]] = [
            reader.features(i),
            reader.cover(i),
            reader.sspe_masks(i),
            reader.cls(i),
        ]
        parts += [pixels.level, pixels.area, pixels.predicted_iou, pixels.stability]
        parts += [pixels.box, pixels.point, pixels.crop]
        text = json.dumps([pixels.fallback, dict(pixels.survivors), reader.plan.images[i]])
        data = b"".join(part.tobytes() for part in parts) + b"|".join(pixels.rles)
        found[str(i)] = hashlib.sha256(data + text.encode()).hexdigest()
    return found


@pytest.mark.parametrize("name", NAMES)
def test_it_still_reads_to_the_bit(name: str) -> None:
    want = json.loads((HOME / "expected.json").read_text())[name]
    assert digests(HOME / name) == want["rows"]
    assert Plan.load(HOME / name / "plan.json").id == want["id"]
    assert verify(HOME / name, full=True).ok


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in HOME.rglob("*") if path.is_file()) < 200_000
