"""Plain folders: ids that stay when photographs are added, nothing dropped silently."""

from pathlib import Path

import pytest
from PIL import Image

from svp.pipeline.errors import DataError, ImageError, MissingError
from svp.pipeline.images import read_record
from svp.pipeline.sources import open_source
from svp.pipeline.sources.folder import path_id


def draw(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4)).save(root / name, "PNG")


def test_subfolders_and_extensions(tmp_path: Path) -> None:
    draw(tmp_path, "b.png", "sub/a.JPG", "sub/deep/c.webp", ".hidden/d.png", ".e.png")
    (tmp_path / "notes.txt").write_text("x")
    source = open_source(tmp_path)
    assert sorted(r.path for r in source.images) == ["b.png", "sub/a.JPG", "sub/deep/c.webp"]
    assert [r.image_id for r in source.images] == sorted(r.image_id for r in source.images)
    assert {(r.height, r.width) for r in source.images} == {(4, 6)}
    assert source.kind == "folder" and source.image_root == tmp_path
    train = open_source(tmp_path, split="train")
    assert train.images == source.images and "has no splits" in train.notices[0]


def test_the_image_root_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "photos", "a.png")
    monkeypatch.chdir(tmp_path)
    assert open_source("photos").image_root == tmp_path / "photos"


def test_adding_a_photograph_keeps_all_ids(tmp_path: Path) -> None:
    draw(tmp_path, "b.png", "c.png")
    before = set(open_source(tmp_path).images)
    draw(tmp_path, "a.png")
    assert before < set(open_source(tmp_path).images)


def test_ids_are_fixed_and_fit_json() -> None:
    assert path_id("a.jpg") == 2_836_059_931_555_064
    assert max(path_id(f"{i}.jpg") for i in range(2000)) < 2**53


def test_unreadable_images_are_listed_with_size_zero(tmp_path: Path) -> None:
    draw(tmp_path, "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    (tmp_path / "c.jpg").write_bytes(b"GIF89a")
    source = open_source(tmp_path)
    zero = [record for record in source.images if record.height == 0]
    assert len(source.images) == 3 and len(zero) == 2
    reasons = set()
    for record in zero:
        with pytest.raises(ImageError) as caught:
            read_record(source.image_root, record)
        reasons.add(caught.value.reason)
    assert reasons == {"empty", "not-an-image"}
    assert sum("will be quarantined" in notice for notice in source.notices) == 2


def test_links_to_the_outside_are_refused(tmp_path: Path) -> None:
    draw(tmp_path / "root", "a.png")
    draw(tmp_path, "secret.png")
    (tmp_path / "root" / "b.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match="outside the folder by a link"):
        open_source(tmp_path / "root")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"is no dataset: looked for tables.json.*\*.parquet"):
        open_source(tmp_path)
    with pytest.raises(MissingError, match="neither a path nor a REFER set"):
        open_source(tmp_path / "none")
