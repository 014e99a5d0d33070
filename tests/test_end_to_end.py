"""Photographs in, a cache and a page out, through the command line, on real photographs.

The photographs are those inside scikit-image (public domain or CC0; see its data/README.txt).
"""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from svp.cli import main
from svp.pipeline.cache.reader import CacheReader

skimage_data = pytest.importorskip("skimage.data")
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
FAST = ("--size", "tiny", "--workers", "0", "--device", "cpu", "--quiet")


def svp(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSONL data set over real photographs: train, train, val, test, a mask each."""
    root = tmp_path_factory.mktemp("photographs")
    lines = []
    for name, split in zip(PHOTOGRAPHS, ("train", "train", "val", "test"), strict=True):
        pixels = getattr(skimage_data, name)()
        Image.fromarray(pixels).save(root / f"{name}.jpg", quality=92)
        height, width = pixels.shape[:2]
        box = [10, 10, width // 2, 10, width // 2, height // 2, 10, height // 2]
        record = {"image": f"{name}.jpg", "expression": f"the {name}", "mask": [box]}
        lines.append(json.dumps(record | {"split": split, "dataset": "photographs"}))
    (root / "photographs.jsonl").write_text("\n".join(lines) + "\n")
    return root / "photographs.jsonl"


def coverage(reader: CacheReader, row: int) -> float:
    """Share of the patch grid under any superpixel."""
    return float(np.minimum(reader.cover(row).astype(np.float64).sum(axis=0), 1).mean())


@pytest.mark.parametrize(("split", "images"), [("train", 2), ("val", 1), ("test", 1)])
def test_slic_on_photographs(photographs: Path, tmp_path: Path, split: str, images: int) -> None:
    out = tmp_path / "cache"
    command = ("precompute", "--dataset", photographs, "--split", split, "--superpixels", "slic")
    svp(*command, "--encoder-weights", "random", "--out", out, *FAST)
    reader = CacheReader(out, verify="always")
    assert reader.complete and len(reader.ids) == images
    for row in range(images):
        found = reader.superpixels(row)
        assert 15 < len(found) < 80
        assert found.area.sum() == found.height * found.width  # SLIC is a partition
        assert coverage(reader, row) == pytest.approx(1, abs=2e-3)
        assert np.isfinite(reader.features(row)).all()
    again = svp(*command, "--encoder-weights", "random", "--out", out, *FAST, "--json")
    assert json.loads(again.stdout)["computed"] == 0


@pytest.mark.timeout(900)
def test_tiny_sam_on_photographs_and_everything_after(photographs: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "cache", tmp_path / "page"
    command = ("precompute", "--size", "tiny", "--dataset", photographs, "--split", "train",
               "--points-per-side", 8)  # fmt: skip
    svp(*command, "--out", out, *FAST)
    assert "0 damaged" in svp("cache", "verify", out).output
    stats = json.loads(svp("cache", "stats", out, "--json").stdout)
    assert (stats["images"], stats["ok"]) == (2, 2)
    info = json.loads(svp("cache", "info", out, "--json").stdout)
    assert info["complete"] and info["recipe"]["superpixels"]["weights"] == "shipped"
    assert (page / "index.html").as_uri() in svp("cache", "browse", out, "--out", page).output
    other = svp(*command, "--preset", "fma", "--out", out, *FAST, code=2)
    assert "crop_n_layers" in other.output and info["cache_id"][:12] in other.output


def test_a_damaged_cache_is_found_repaired_and_finished(photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    command = ("precompute", "--dataset", photographs, "--split", "train", "--superpixels", "slic")
    command = (*command, "--encoder-weights", "random", "--out", out, *FAST)
    svp(*command)
    shard = next(out.glob("features/*/dino/c/0"))
    while shard.is_dir():
        shard /= "0"
    sound = shard.read_bytes()
    shard.write_bytes(sound[:1000] + bytes([sound[1000] ^ 1]) + sound[1001:])
    assert "dino/c/0" in svp("cache", "verify", out, code=1).output
    svp("cache", "repair", out)
    svp(*command)
    svp("cache", "verify", out)
    assert shard.read_bytes() == sound


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_official_vit_b_at_full_size_with_random_weights(photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    svp(
        "precompute", "--dataset", photographs, "--split", "val", "--sam-model", "vit_b",
        "--sam-weights", "random:1", "--points-per-side", 4, "--out", out, *FAST,
        "--store-sam-embeddings",
    )  # fmt: skip
    reader = CacheReader(out)
    assert len(reader.superpixels(0)) >= 1
    assert reader.sam(0).shape == (256, 64, 64)


@pytest.mark.gpu
def test_a_gpu_makes_the_same_cache_in_a_worker_and_inline(
    photographs: Path, tmp_path: Path
) -> None:
    """Equal bytes on one GPU; features are the CPU's up to rounding."""
    command = ("precompute", "--size", "tiny", "--dataset", photographs, "--split", "train",
               "--points-per-side", 8)  # fmt: skip
    for name, more in (
        ("worker", ("--device", "cuda")),
        ("inline", ("--device", "cuda", "--workers", 0)),
        ("cpu", ("--device", "cpu", "--workers", 0)),
    ):
        svp(*command, "--out", tmp_path / name, "--quiet", *more)
    files = [p.relative_to(tmp_path / "worker") for p in (tmp_path / "worker").rglob("c/**/*")]
    arrays = [path for path in files if (tmp_path / "worker" / path).is_file()]
    assert arrays
    for path in arrays:
        assert (tmp_path / "worker" / path).read_bytes() == (
            tmp_path / "inline" / path
        ).read_bytes()
    ours, theirs = CacheReader(tmp_path / "worker"), CacheReader(tmp_path / "cpu")
    for row in range(2):
        found, expected = (np.float32(reader.features(row)) for reader in (ours, theirs))
        assert np.abs(found - expected).max() < 0.01 * np.abs(expected).max()
