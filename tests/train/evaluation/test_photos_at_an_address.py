"""Pages, previews and figures are made without photographs where the service that holds them fails."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from support.object_server import ObjectServer
from support.uploads import upload
from svp.pipeline.cache.plan import PlanImage
from svp.pipeline.precompute.source_images import hash_image
from svp.pipeline.records import ImageRecord
from svp.train.data.photo_identity import Photos
from svp.train.evaluation.page.page_photos import ASSETS, Photographs
from svp.train.figures.inputs import Material
from svp.train.trainer.previews import _photo

ROW: Any = SimpleNamespace(dataset="d", image_id=1, path="a.png", height=30, width=40)


@pytest.fixture
def root(tmp_path: Path, bucket: ObjectServer) -> Path:
    (tmp_path / "photos").mkdir()
    pixels = np.full((30, 40, 3), 7, np.uint8)
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
    return upload(tmp_path / "photos", "s3://tests/photos")


def test_a_gallery_asks_a_service_that_fails_once(
    root: Path, tmp_path: Path, bucket: ObjectServer, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "page" / ASSETS).mkdir(parents=True)
    address, size = Photographs(tmp_path / "page", root).get(ROW)
    assert (tmp_path / "page" / address).is_file() and size == (40, 30)
    bucket.set(refuse="ExpiredToken")
    photos = Photographs(tmp_path / "page", root)
    assert photos.get(ROW) == ("", (0, 0))
    asked = sum(bucket.counts().values())
    other: Any = SimpleNamespace(**{**vars(ROW), "image_id": 2, "path": "b.png"})
    assert photos.get(other) == ("", (0, 0)) and sum(bucket.counts().values()) == asked
    assert (
        "the page is without photographs: s3://tests/photos/a.png: the credentials" in caplog.text
    )


def test_previews_and_figures_are_grey_then(root: Path, bucket: ObjectServer) -> None:
    size, digest = hash_image(root, ImageRecord(1, "a.png", 30, 40))
    image = PlanImage(1, "a.png", 30, 40, size, digest)
    readers: Any = [SimpleNamespace(plan=SimpleNamespace(images=[image]))]
    item: Any = SimpleNamespace(entry=SimpleNamespace(cache=0, row=0, height=30, width=40))
    figure = Material(*[None] * 3, root, None)  # type: ignore[arg-type]
    assert _photo(readers, item, root).mean() == figure.photo(ROW).mean() == 7
    bucket.set(refuse="ExpiredToken")
    assert _photo(readers, item, root).mean() == 128
    assert figure.photo(ROW).mean() == 150


def test_training_compares_no_photographs_of_a_bucket(
    root: Path, tmp_path: Path, bucket: ObjectServer
) -> None:
    bucket.set(refuse="ExpiredToken")
    photos, image = Photos(root, tmp_path), PlanImage(1, "a.png", 30, 40, 9, "0" * 15 + "1")
    assert photos.compare(ImageRecord(1, "a.png", 30, 40), image) == "unseen"
    assert photos.compare(ImageRecord(1, "b.png", 30, 40), image) == "other"
    assert photos.key(ImageRecord(1, "a.png", 30, 40), frozenset([9])) is None
    assert bucket.counts() == {}
