"""Plain folders: ids that stay when photographs are added, nothing dropped silently."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from svp.pipeline.cache.plan import PlanImage
from svp.pipeline.datasets import open_dataset
from svp.pipeline.datasets.image_folder import path_id
from svp.pipeline.datasets.images import image_header, read_image, read_record
from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.errors import ImageError, MissingError
from svp.pipeline.precompute.source_images import hash_image, read_verified


def draw(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4)).save(root / name, "PNG")


def test_subfolders_and_extensions(tmp_path: Path) -> None:
    draw(tmp_path, "b.png", "sub/a.JPG", "sub/deep/c.webp", ".hidden/d.png", ".e.png")
    (tmp_path / "notes.txt").write_text("x")
    source = open_dataset(tmp_path)
    assert sorted(r.path for r in source.images) == ["b.png", "sub/a.JPG", "sub/deep/c.webp"]
    assert [r.image_id for r in source.images] == sorted(r.image_id for r in source.images)
    assert {(r.height, r.width) for r in source.images} == {(4, 6)}
    assert source.kind == "folder" and source.image_root == tmp_path
    train = open_dataset(tmp_path, split="train")
    assert train.images == source.images and any("has no splits" in line for line in train.notices)


def test_the_image_root_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "photos", "a.png")
    monkeypatch.chdir(tmp_path)
    assert open_dataset("photos").image_root == tmp_path / "photos"


def test_adding_a_photograph_keeps_all_ids(tmp_path: Path) -> None:
    draw(tmp_path, "b.png", "c.png")
    before = set(open_dataset(tmp_path).images)
    draw(tmp_path, "a.png")
    assert before < set(open_dataset(tmp_path).images)


def test_ids_are_fixed_and_fit_json() -> None:
    assert path_id("a.jpg") == 2_836_059_931_555_064
    assert max(path_id(f"{i}.jpg") for i in range(2000)) < 2**53


def test_unreadable_images_are_listed_with_size_zero(tmp_path: Path) -> None:
    draw(tmp_path, "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    (tmp_path / "c.jpg").write_bytes(b"GIF89a")
    source = open_dataset(tmp_path)
    zero = [record for record in source.images if record.height == 0]
    assert len(source.images) == 3 and len(zero) == 2
    reasons = set()
    for record in zero:
        with pytest.raises(ImageError) as caught:
            read_record(source.image_root, record)
        reasons.add(caught.value.reason)
    assert reasons == {"empty", "not-an-image"}
    assert sum("will be quarantined" in notice for notice in source.notices) == 2


def notices(root: Path, start: str = "") -> list[str]:
    found = open_dataset(root).notices
    return [line for line in found if line.startswith(start or ("skipped", "followed"))]


def test_links_are_followed_once_and_named(tmp_path: Path) -> None:
    """What the user names is trusted; the photographs are read through the links by later code."""
    photos = tmp_path / "photos"
    draw(photos, "a.png", "sub/b.png")
    draw(tmp_path / "disk", "trip/c.png", "trip/deep/d.png", "single.png")
    (photos / "trip").symlink_to(tmp_path / "disk" / "trip")
    (photos / "e.png").symlink_to(tmp_path / "disk" / "single.png")
    for name, target in (("loop", photos), ("above", tmp_path), ("again", photos / "sub")):
        (photos / name).symlink_to(target)
    (tmp_path / "disk" / "trip" / "back").symlink_to(tmp_path / "disk" / "trip")
    (photos / "gone.png").symlink_to(tmp_path / "nothing.png")
    (photos / "self.png").symlink_to(photos / "self.png")
    source = open_dataset(photos)
    ids = {path_id(name) for name in ("a.png", "sub/b.png", "trip/c.png", "trip/deep/d.png",
                                      "e.png", "gone.png", "self.png")}  # fmt: skip
    assert {record.image_id for record in source.images} == ids
    good = [record for record in source.images if record.height]
    assert len(good) == 5 and all(
        read_record(source.image_root, r).shape == (4, 6, 3) for r in good
    )
    said = "\n".join(source.notices)
    assert "skipped: 2 folders: a link to the folder itself or above it (first: 'above')" in said
    assert "skipped: 2 folders: a link to a folder that is listed already" in said
    assert "followed: 1 linked folder (first: 'trip')" in said
    assert "3 photographs of 7 behind links that lead elsewhere (first: 'e.png' is " in said
    assert "nothing.png: missing" in said and "self.png" in said


def test_a_link_among_them_changes_no_id(tmp_path: Path) -> None:
    draw(tmp_path / "photos", "a.png")
    draw(tmp_path, "other/b.png")
    (before,) = open_dataset(tmp_path / "photos").images
    (tmp_path / "photos" / "b.png").symlink_to(tmp_path / "other" / "b.png")
    after = open_dataset(tmp_path / "photos")
    assert after.name == "photos" and before.image_id in {r.image_id for r in after.images}
    assert (before.path, after.image_root) == ("a.png", tmp_path)


def test_a_folder_of_links_only(tmp_path: Path) -> None:
    """As the caches of the hub are: files are links to blobs without a suffix."""
    draw(tmp_path / "blobs", "0f3a")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "a.png").symlink_to("../blobs/0f3a")
    source = open_dataset(tmp_path / "snapshot")
    (record,) = source.images
    assert record.image_id == path_id("a.png") and (record.height, record.width) == (4, 6)
    assert read_record(source.image_root, record).shape == (4, 6, 3)


def test_what_is_no_photograph_is_counted_and_named(tmp_path: Path) -> None:
    draw(tmp_path, "a.png", "b.jfif", "c", "d.jpg_original", "e.tif")  # by content, all of them
    for name, kind in (("scan.tif", "TIFF"), ("sub/old.bmp", "BMP"), ("f.gif", "GIF")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (6, 4)).save(tmp_path / name, kind)
    (tmp_path / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "labels.txt").write_text("x")
    (tmp_path / "LICENSE").write_text("x")
    source = open_dataset(tmp_path)
    assert sorted(r.path for r in source.images) == [
        "a.png",
        "b.jfif",
        "c",
        "d.jpg_original",
        "e.tif",
    ]
    (said,) = notices(tmp_path)
    for part in ("6 files not JPEG, PNG or WEBP", "1 .tif", "1 .bmp", "1 .gif", "1 .heic", "1 .txt", "1 without suffix",
                 "save pictures as JPEG or PNG"):  # fmt: skip
        assert part in said


def test_a_folder_of_other_pictures_says_so(tmp_path: Path) -> None:
    Image.new("RGB", (6, 4)).save(tmp_path / "scan.tif")
    with pytest.raises(MissingError, match="1 .tif .first picture: 'scan.tif'.: save pictures as"):
        open_dataset(tmp_path)


def test_own_output_is_never_a_photograph(tmp_path: Path) -> None:
    draw(tmp_path, "cat.jpg", "cat-1-mask.png", "cat-2-overlay.png", "dog-1-mask.png",
         "page/assets/0001.webp", "caches/c/x.png", "runs/r/previews/step-1.png",
         "plain/index/y.png")  # fmt: skip
    (tmp_path / "cat.json").write_text("{}")
    (tmp_path / "page" / "index.html").write_text('<meta name="generator" content="svp 0.1.0">')
    (tmp_path / "plain" / "index.html").write_text("<p>mine</p>")
    for name in ("plan.json", "zarr.json", "images/zarr.json"):
        (tmp_path / "caches" / "c" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "caches" / "c" / name).write_text("{}")
    for name in ("config.yaml", "env.json"):
        (tmp_path / "runs" / "r" / name).write_text("{}")
    write_scenes(tmp_path / "data" / "scenes", images=2, seed=0)
    taken = sorted(record.path for record in open_dataset(tmp_path).images)
    assert taken == ["cat.jpg", "dog-1-mask.png", "plain/index/y.png"]
    said = "\n".join(notices(tmp_path))
    assert "2 pictures made by svp predict" in said
    for kind in ("page", "cache", "run", "generated scenes"):
        assert f"1 folder: made by svp ({kind})" in said


@pytest.mark.parametrize("kind", ["page", "predictions", "notes"])
def test_a_folder_without_a_photograph_says_what_is_there(kind: str, tmp_path: Path) -> None:
    match kind:
        case "page":
            draw(tmp_path, "assets/0001.webp")
            text = '<meta name="generator" content="svp 0.1.0">'
            (tmp_path / "index.html").write_text(text)
            said = "made by svp .page."
        case "predictions":
            draw(tmp_path, "cat-1-mask.png")
            (tmp_path / "cat.json").write_text("{}")
            said = "1 picture made by svp predict"
        case _:
            (tmp_path / "notes.txt").write_text("x")
            said = "1 file not JPEG, PNG or WEBP: 1 .txt"
    with pytest.raises(MissingError, match=f"is no dataset: looked for .*; skipped: .*{said}"):
        open_dataset(tmp_path)


def test_odd_names_on_disk_are_quarantined(tmp_path: Path) -> None:
    draw(tmp_path, "a.png", "x:1.png", "back\\slash.png", "~home.png", "new\nline.png")
    draw(tmp_path, os.fsdecode(b"latin-\xe9.png"))
    source = open_dataset(tmp_path)
    assert len(source.images) == 6
    bad = [record for record in source.images if not record.height]
    assert len(bad) == 5
    for record in bad:
        with pytest.raises(ImageError) as caught:
            read_record(source.image_root, record)
        assert caught.value.reason == "unsafe-path" and str(caught.value).isprintable()
    assert sum("will be quarantined" in line for line in source.notices) == 5


def test_orientation_and_depth_are_told(tmp_path: Path) -> None:
    draw(tmp_path, "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(tmp_path / "phone.jpg", exif=exif)
    Image.fromarray(np.full((4, 6), 3520, np.uint16)).save(tmp_path / "deep.png")
    source = open_dataset(tmp_path)
    sizes = {record.path: (record.height, record.width) for record in source.images}
    assert sizes == {"a.png": (4, 6), "phone.jpg": (6, 4), "deep.png": (4, 6)}
    said = "\n".join(source.notices)
    assert (
        "turned upright by their EXIF orientation: 1 of 3 photographs" in said
        and "'phone.jpg'" in said
    )
    assert "16-bit grey: 1 of 3 photographs" in said and "'deep.png'" in said


def test_the_same_pixels_when_cut_and_when_asked(tmp_path: Path) -> None:
    """A plan's record, a cache's page and `svp predict`, which has only the file."""
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(pixels).save(tmp_path / f"{orientation}.png", exif=exif)
    for record in open_dataset(tmp_path).images:
        planned = PlanImage(record.image_id, record.path, record.height, record.width, 0, "")
        size, digest = hash_image(tmp_path, record)
        alone = read_image(tmp_path / record.path)
        assert alone.shape[:2] == image_header(tmp_path / record.path).upright
        planned = planned._replace(bytes=size, xxh3=digest)
        assert np.array_equal(read_verified(tmp_path, planned), alone)
        assert np.array_equal(read_record(tmp_path, record), alone)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"is no dataset: looked for tables.json.*\*.parquet"):
        open_dataset(tmp_path)
    with pytest.raises(MissingError, match="neither a path nor a REFER set"):
        open_dataset(tmp_path / "none")
