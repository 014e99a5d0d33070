"""Masks of over 100,000 runs and every EXIF orientation: what is given is what is stored."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from svp.cli import main
from svp.pipeline.cache.reader import CacheReader
from svp.pipeline.datasets import open_dataset
from svp.pipeline.masks import rle

Mask = NDArray[np.bool_]


def noise(height: int, width: int, seed: int = 0) -> Mask:
    """Half of the pixels at random: about one run for two pixels."""
    return np.random.default_rng(seed).random((height, width)) < 0.5


def told(mask: Mask) -> dict[str, object]:
    made = rle.encode(mask)
    return {"size": [made.height, made.width], "counts": made.counts.decode()}


def photograph(path: Path, height: int, width: int, orientation: int) -> tuple[int, int]:
    """A JPEG with an EXIF orientation; its upright (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x % 256, y % 256, (x + y) % 256], axis=2).astype(np.uint8)
    Image.fromarray(pixels).save(path, exif=exif)
    return (width, height) if orientation >= 5 else (height, width)


def run(*words: str) -> str:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    return result.output


def test_every_run_and_every_orientation_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    drawn, lines = {}, []
    for orientation in range(1, 9):
        name, size = f"o{orientation}", (500, 800) if orientation == 6 else (48, 64)
        height, width = photograph(Path(f"own/{name}.jpg"), *size, orientation)
        half = np.indices((height, width))[0] > height // 2
        drawn[f"{name}.jpg"] = noise(height, width, orientation), half
        Path("masks").mkdir(exist_ok=True)
        Path(f"masks/{name}.json").write_text(json.dumps([told(m) for m in drawn[f"{name}.jpg"]]))
        target = ~drawn[f"{name}.jpg"][0]
        row = {"image": f"{name}.jpg", "expression": f"the noise {name}", "mask": told(target)}
        lines.append(json.dumps(row))
    Path("own/val.jsonl").write_text("\n".join(lines))
    assert len(rle.from_string(rle.encode(drawn["o6.jpg"][0]).counts)) > 100_000

    said = run("precompute", "--dataset", "own", "--split", "val", "--size", "tiny",
               "--superpixels", "masks", "--masks", "masks", "--out", "cache", "--workers", "0")  # fmt: skip
    assert "8 of 8 in the cache" in said
    assert "0 damaged, complete" in run("cache", "verify", "cache")
    reader = CacheReader(Path("cache"))
    for number, image in enumerate(reader.plan.images):
        found = reader.superpixels(number)
        whole = {mask.counts for mask in found.masks()}
        assert whole == {rle.encode(mask).counts for mask in drawn[image.path]}, image.path
        for k, mask in enumerate(found.masks()):
            assert (mask.height, mask.width) == drawn[image.path][0].shape
            assert rle.area(mask) == found.area[k]
    source = open_dataset("own", split="val", masks=True)
    for sentence in source.sentences:
        (record,) = (i for i in source.images if i.image_id == sentence.image_id)
        mask = source.masks[sentence.dataset, sentence.ann_id]
        assert np.array_equal(rle.decode(mask).astype(bool), ~drawn[record.path][0]), record.path
    run("cache", "browse", "cache", "--out", "page", "--images", "own")
    assert len(list(Path("page/assets").glob("*-small.webp"))) == 8
