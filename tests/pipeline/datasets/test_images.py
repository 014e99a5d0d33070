"""Decoding: every awkward image is either right to the value or refused with its reason."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from support.reasons import documented_reasons
from svp.pipeline.datasets import images
from svp.pipeline.datasets.images import (
    Header,
    image_header,
    mislabelled,
    read_image,
    read_record,
)
from svp.pipeline.errors import ImageError
from svp.pipeline.records import ImageRecord

REASONS = documented_reasons()

Pixels = NDArray[np.uint8]


def picture(height: int = 20, width: int = 30) -> Pixels:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 8 % 256, y * 12 % 256, (x + y) * 5 % 256], axis=2).astype(np.uint8)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def reason_of(path: Path, record: ImageRecord | None = None) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(path, record)
    assert caught.value.reason in REASONS
    assert path.name in str(caught.value) and str(caught.value).isprintable()
    return caught.value.reason


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_lossless_formats_come_back_exactly(format: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{format.lower()}"
    path.write_bytes(encoded(Image.fromarray(picture()), format, lossless=True))
    pixels = read_image(path, ImageRecord(1, path.name, 20, 30))
    assert np.array_equal(pixels, picture())
    assert pixels.dtype == np.uint8 and pixels.flags.writeable and pixels.flags.c_contiguous
    assert image_header(path).upright == (20, 30)


def test_content_decides_not_the_extension(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(Image.fromarray(picture()), "PNG"))
    assert np.array_equal(read_image(path), picture())
    assert mislabelled(path) == "PNG"
    path.rename(tmp_path / "a.png")
    assert mislabelled(tmp_path / "a.png") is None


def test_grey_bilevel_and_alpha(tmp_path: Path) -> None:
    grey = picture()[:, :, 0]
    path = tmp_path / "a.png"
    Image.fromarray(grey).save(path)
    assert np.array_equal(read_image(path), np.repeat(grey[:, :, None], 3, axis=2))
    Image.fromarray(grey > 100).save(path)
    assert set(np.unique(read_image(path))) == {0, 255}
    rgba = np.dstack([picture(), np.zeros((20, 30), np.uint8)])
    Image.fromarray(rgba).save(path)
    assert np.array_equal(read_image(path), picture())  # hidden colours are kept


def test_palette_gives_its_colours(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([1, 0])
    image.save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").tolist() == [[[200, 100, 50], [10, 20, 30]]]


def test_cmyk_jpeg_has_the_colours_of_its_rgb_twin(tmp_path: Path) -> None:
    flat = Image.new("RGB", (16, 16), (200, 60, 30))
    flat.convert("CMYK").save(tmp_path / "a.jpg", quality=98)
    pixels = read_image(tmp_path / "a.jpg")
    assert np.abs(pixels.astype(int) - [200, 60, 30]).max() <= 4


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_is_scaled_not_clipped(channels: int, tmp_path: Path) -> None:
    eight = picture()[:, :, :channels]
    path = tmp_path / "a.png"
    path.write_bytes(png_16(eight.astype(np.uint16) * 257))
    assert np.array_equal(read_image(path), np.broadcast_to(eight, (20, 30, 3)))
    path.write_bytes(png_16(np.full((4, 4, channels), 0x1234, np.uint16)))
    assert set(np.unique(read_image(path))) == {0x12}


def png_16(pixels: NDArray[np.uint16]) -> bytes:
    """A 16-bit PNG, written by hand: Pillow cannot write the RGB one."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    colour = 0 if channels == 1 else 2
    return png(width, height, 16, colour, zlib.compress(rows))


def png(width: int, height: int, depth: int, colour: int, data: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    )


def oriented(path: Path, orientation: object, format: str = "PNG") -> None:
    """The picture as a camera held that way stores it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture()).save(path, format, exif=exif, lossless=True, quality=95)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_viewers_do(
    orientation: int, format: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.any"
    oriented(path, orientation, format)
    with Image.open(path) as image:
        shown = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    upright = (30, 20) if orientation > 4 else (20, 30)
    assert image_header(path).upright == upright == shown.shape[:2]
    assert image_header(path) == Header((20, 30), orientation)
    pixels = read_image(path)
    assert np.array_equal(pixels, shown) and pixels.flags.c_contiguous
    assert np.array_equal(read_image(path, ImageRecord(1, "a", *upright)), shown)


def test_annotations_of_the_stored_size_get_the_stored_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    oriented(path, 6)
    assert np.array_equal(read_image(path, ImageRecord(1, "a", 20, 30)), picture())
    assert read_image(path, ImageRecord(1, "a", 0, 0)).shape == (30, 20, 3)
    with pytest.raises(ImageError, match="20x30, the annotations say 15x10"):
        read_image(path, ImageRecord(1, "a", 15, 10))
    Image.fromarray(picture()).save(path)  # nothing says that it lies
    with pytest.raises(ImageError, match="rotated by 90 degrees it would match") as caught:
        read_image(path, ImageRecord(1, "a", 30, 20))
    assert caught.value.reason == "wrong-size"


def test_an_orientation_that_is_none_changes_nothing(tmp_path: Path) -> None:
    for value in (0, 9, 65535):
        oriented(tmp_path / "a.png", value)
        assert np.array_equal(read_image(tmp_path / "a.png"), picture()), value
    several = b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\2\0\6\0\6\0\0\0\0"  # two values, not one
    for data in (several, b"", b"Exif", b"II*\0\xff\xff\xff\xff", b"MM\0*" + bytes(50), b"x" * 30):
        Image.fromarray(picture()).save(tmp_path / "b.png", exif=data)
        assert image_header(tmp_path / "b.png") == Header((20, 30))


def test_wrong_size_and_unknown_size(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(picture()).save(path)
    with pytest.raises(ImageError, match="20x30, the annotations say 21x30") as caught:
        read_image(path, ImageRecord(1, "a.png", 21, 30))
    assert "rotated" not in str(caught.value)
    assert read_image(path, ImageRecord(1, "a.png", 0, 0)).shape == (20, 30, 3)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_files(format: str, share: float, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), format)
    path = tmp_path / "a.jpg"
    path.write_bytes(data[: int(len(data) * share)])
    assert reason_of(path) == "truncated"


def test_files_that_are_no_images(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    assert reason_of(path) == "missing"
    assert reason_of(path / "b.jpg") == "missing"
    path.write_bytes(b"")
    assert reason_of(path) == "empty"
    path.write_bytes(b"<html>404 not found</html>")
    assert reason_of(path) == "not-an-image"
    path.write_bytes(b"RIFF\0\0\0\0WAVEfmt ")
    assert reason_of(path) == "not-an-image"
    for format in ("GIF", "BMP", "TIFF", "PPM", "ICO"):  # decoders we do not offer
        path.write_bytes(encoded(Image.fromarray(picture()), format))
        assert reason_of(path) == "not-an-image"


def test_corrupt_content(tmp_path: Path) -> None:
    data = bytearray(encoded(Image.fromarray(picture()), "PNG"))
    start = data.index(b"IDAT") + 10
    data[start : start + 20] = bytes(20)
    path = tmp_path / "a.png"
    path.write_bytes(bytes(data))
    assert reason_of(path) == "corrupt"
    path.write_bytes(b"\xff\xd8\xff" + bytes(200) + b"\xff\xd9")
    assert reason_of(path) == "corrupt"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("width", "height"), [(60_000, 60_000), (9_000, 8_000), (8_100, 8_100), (1, 8_193)]
)
def test_bombs_are_refused_from_the_header(width: int, height: int, tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(width, height, 8, 2, zlib.compress(bytes(100))))
    assert reason_of(path) == "too-large"
    with pytest.raises(ImageError):
        image_header(path)


def test_one_pixel_wide(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(picture(900, 1)).save(path)
    assert read_image(path).shape == (900, 1, 3)


def test_too_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(picture()).save(path)
    monkeypatch.setattr(images, "MAX_BYTES", 50)
    assert reason_of(path) == "too-large"


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_animations_are_refused(format: str, tmp_path: Path) -> None:
    frames = [Image.fromarray(picture()), Image.fromarray(255 - picture())]
    path = tmp_path / "a.png"
    frames[0].save(path, format, save_all=True, append_images=frames[1:])
    assert reason_of(path) == "animated"


def test_a_jpeg_with_an_embedded_second_picture_is_its_first(tmp_path: Path) -> None:
    first, second = Image.fromarray(picture()), Image.fromarray(255 - picture())
    path = tmp_path / "phone.jpg"
    first.save(path, "MPO", save_all=True, append_images=[second], quality=95)
    first.save(tmp_path / "plain.jpg", quality=95)
    assert np.array_equal(read_image(path), read_image(tmp_path / "plain.jpg"))


def test_devices_pipes_and_folders_are_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", tmp_path, Path("/dev/zero")):
        assert reason_of(path) == "unsafe-path"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"x")
    path.chmod(0)
    assert reason_of(path) == "unreadable"


def test_read_record_turns_path_rules_into_a_reason(tmp_path: Path) -> None:
    (tmp_path / "leak.jpg").symlink_to("/etc/passwd")
    for name in ("leak.jpg", "../x.jpg"):
        with pytest.raises(ImageError, match="image 7") as caught:
            read_record(tmp_path, ImageRecord(7, name, 1, 1))
        assert caught.value.reason == "unsafe-path"


SEEDS = {
    "JPEG": encoded(Image.fromarray(picture()), "JPEG"),
    "PNG": encoded(Image.fromarray(picture()), "PNG"),
    "WEBP": encoded(Image.fromarray(picture()), "WEBP"),
}


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@given(
    st.sampled_from(sorted(SEEDS)),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6),
    st.integers(0, 60),
)
def test_damaged_bytes_give_pixels_or_an_image_error(
    tmp_path: Path, format: str, changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(SEEDS[format])
    for place, value in changes:
        data[place % len(data)] = value
    path = tmp_path / "fuzz"
    path.write_bytes(bytes(data[: len(data) - cut]))
    try:
        pixels = read_image(path)
    except ImageError as error:
        assert error.reason in REASONS
    else:
        assert pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8
