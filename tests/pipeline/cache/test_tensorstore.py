"""TensorStore, a Zarr library that shares no code with the one the format comes from, reads caches."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svp.pipeline.cache import CacheReader
from svp.pipeline.cache.row_codec import unpack_rles
from svp.pipeline.records import ImageRow

tensorstore = pytest.importorskip("tensorstore")


def opened(folder: Path) -> Any:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder)}}
    return tensorstore.open(spec, read=True).result()


def arrays(cache: Path) -> dict[str, Any]:
    """Every array of a cache by its path: layers, their columns, and the image list."""
    found = {}
    for meta in sorted(cache.rglob("zarr.json")):
        if json.loads(meta.read_text())["node_type"] == "array":
            found[str(meta.parent.relative_to(cache))] = opened(meta.parent)
    return found


def test_every_array_has_the_reader_s_rows(maker: Callable[..., Any]) -> None:
    made = maker(bad=[2], layers=(1, 2), cls=True)
    made.write()
    made.finish()
    found = arrays(made.path)
    codecs = {name: one.spec().to_json()["metadata"]["codecs"] for name, one in found.items()}
    inner = {
        name.split("/")[-1]: [c["name"] for c in chain[0]["configuration"]["codecs"]]
        for name, chain in codecs.items()
        if chain[0]["name"] == "sharding_indexed"
    }
    assert inner["dino"] == inner["sam"] == ["bytes", "crc32c"]
    assert inner["rle"] == inner["cover"] == ["bytes", "zstd"]
    assert set(inner) == {spec.name for spec in made.plan.arrays}

    reader, paths = CacheReader(made.path), {s.name: s.path for s in made.plan.arrays}
    for i, row in enumerate(made.rows):
        rows = {name: np.asarray(found[path][i].read().result()) for name, path in paths.items()}
        if not isinstance(row, ImageRow):
            assert not any(values.any() for values in rows.values())  # no chunk: the fill value
            continue
        superpixels, n = reader.superpixels(i), reader.count(i)
        assert unpack_rles(rows["rle"]) == superpixels.rles
        for name, value in {
            "dino": row.patches, "layers": row.layers, "cls": row.cls, "sam": row.sam,
        }.items():  # fmt: skip
            np.testing.assert_array_equal(rows[name], value, strict=True)
        for name, value in {
            "cover": row.cover, "sspe_masks": row.sspe_masks, "area": superpixels.area,
            "level": superpixels.level, "iou": superpixels.predicted_iou,
            "stability": superpixels.stability, "point": superpixels.point,
        }.items():  # fmt: skip
            np.testing.assert_array_equal(rows[name][:n], value, strict=True)
            assert not rows[name][n:].any()
        for name, value in {"box": superpixels.box, "crop": superpixels.crop}.items():
            np.testing.assert_array_equal(rows[name][:n], value)
    (ids,) = (one for name, one in found.items() if name.endswith("/id"))
    assert ids.read().result().tolist() == reader.ids.tolist()
    k = found["superpixels/sam-tiny/k"].read().result()
    assert k.tolist() == reader.counts.tolist()


def test_int8_features(maker: Callable[..., Any]) -> None:
    made = maker(stored="int8")
    made.write()
    values, scales = (opened(made.path / spec.path) for spec in made.plan.layer("features").arrays)
    assert values.dtype.name == "int8" and scales.dtype.name == "float16"
    reader = CacheReader(made.path)
    for i in range(10):
        q, scale = (np.asarray(one[i].read().result(), np.float32) for one in (values, scales))
        np.testing.assert_array_equal((q * scale).astype(np.float16), reader.features(i))


@pytest.mark.parametrize("name", ["dino", "rle"])
@pytest.mark.parametrize("at", [9, -3], ids=["row", "index"])
def test_a_changed_byte_is_found(cache: Any, name: str, at: int) -> None:
    (spec,) = (spec for spec in cache.plan.arrays if spec.name == name)
    (file,) = (p for p in (cache.path / spec.path / "c" / "0").rglob("*") if p.is_file())
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"Digest mismatch|Data corruption|checksum"):
        opened(cache.path / spec.path)[0].read().result()
