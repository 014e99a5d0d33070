"""T17: caches in the repository must read for ever, to the bit; those of version 1 converted.

Made once with the builders of conftest.py; never make them again under the same version.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from svp.pipeline.cache import CacheReader, Plan, verify
from svp.pipeline.cache.first_format import convert
from svp.pipeline.errors import CacheError

FIXTURES = Path(__file__).parents[2] / "fixtures"
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
        if reader.plan.mean_int4:
            parts += [reader.pooled(i), reader.sam(i)]
        text = json.dumps([pixels.fallback, dict(pixels.survivors), reader.plan.images[i]])
        data = b"".join(part.tobytes() for part in parts) + b"|".join(pixels.rles)
        found[str(i)] = hashlib.sha256(data + text.encode()).hexdigest()
    return found


@pytest.mark.parametrize("name", [*NAMES, "mean+int4"])
def test_it_still_reads_to_the_bit(name: str) -> None:
    home = FIXTURES / "cache_v2"
    want = json.loads((home / "expected.json").read_text())[name]
    assert digests(home / name) == want["rows"]
    plan = Plan.load(home / name)
    assert plan.id == want["id"]
    assert {layer.folder: layer.id for layer in plan.layers} == want["layers"]
    assert verify(home / name, full=True).ok


@pytest.mark.parametrize("name", NAMES)
def test_a_cache_of_version_1_converts_to_the_bit(name: str, tmp_path: Path) -> None:
    old, new = FIXTURES / "cache_v1" / name, tmp_path / "c"
    for read in (CacheReader, verify):
        with pytest.raises(
            CacheError, match=r"cache schema 1.*svp cache convert .* --out NEWCACHE"
        ):
            read(old)
    want = json.loads((old.parent / "expected.json").read_text())[name]
    report = convert(old, new)
    assert (report.before, report.complete, report.damaged) == (want["id"], True, {})
    assert digests(new) == want["rows"]
    assert verify(new, full=True).ok


@pytest.mark.parametrize("version", ["cache_v1", "cache_v2"])
def test_they_are_small(version: str) -> None:
    files = (path for path in (FIXTURES / version).rglob("*") if path.is_file())
    assert sum(path.stat().st_size for path in files) < 200_000
