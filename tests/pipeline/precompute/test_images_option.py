"""`svp precompute --images` with an address, and the commands that show its photographs later."""

import shutil
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from click.testing import CliRunner

from support.kill_trials import tree
from support.object_server import ObjectServer
from support.uploads import upload
from svp.cli import main
from svp.pipeline.cache.places import image_root_of, read_places
from svp.pipeline.cache.plan import Plan
from svp.pipeline.datasets.scenes import write_scenes

ADDRESS = "s3://tests/photos"


def svp(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, list(words))
    return done.exit_code, done.output


SLIC = ("--size", "tiny", "--superpixels", "slic", "--workers", "0", "--quiet")


def test_the_command_over_a_bucket_a_folder_and_its_tar_file(
    tmp_path: Path, bucket: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scenes = write_scenes(tmp_path / "scenes", images=6, seed=3) / "images"
    folder = Path(shutil.copytree(scenes, tmp_path / "photos"))
    for path in sorted(folder.iterdir())[:2]:
        with tarfile.open(folder / "some.tar", "a") as tar:
            tar.add(path, path.name)
        path.unlink()
    upload(folder, ADDRESS)
    for name, where in (("ours", ADDRESS), ("theirs", str(folder))):
        code, said = svp("precompute", "--images", where, "--out", f"{name}/c", *SLIC)
        assert code == 0, said
    assert tree(tmp_path / "ours" / "c") == tree(tmp_path / "theirs" / "c")
    assert image_root_of(Path("ours/c")) == Path(ADDRESS)
    places = read_places(Path("ours/c"))
    assert places is not None and places.dataset == ADDRESS

    # What shows photographs finds them where they are, or says what to give.
    code, said = svp("cache", "browse", "ours/c", "--out", "page")
    assert code == 0 and len(list(Path("page").rglob("*-small.webp"))) > 0, said
    bucket.set(refuse="ExpiredToken")
    code, said = svp("cache", "browse", "ours/c", "--out", "page2")
    assert code == 1 and "expired" in said and "with --images FOLDER" in said
    code, said = svp("cache", "browse", "ours/c", "--out", "page2", "--images", str(folder))
    assert code == 0, said
    bucket.set()
    code, said = svp("cache", "add", "ours/c", "cls", "--workers", "0")
    assert code == 0, said


def test_the_command_over_a_parquet_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scenes = write_scenes(tmp_path / "scenes", images=4, seed=3) / "images"
    data = [path.read_bytes() for path in sorted(scenes.iterdir())]
    pq.write_table(pa.table({"image": [{"bytes": one} for one in data]}), "part.parquet")
    code, said = svp("precompute", "--images", "part.parquet", "--out", "c", *SLIC)
    assert code == 0 and "4 of 4 in the cache" in said, said
    images = Plan.load(Path("c")).images
    assert [image.path for image in images] == [f"part.parquet/{i:07d}#{i}" for i in range(4)]
    assert [image.xxh3 for image in images] == [xxhash.xxh3_64_hexdigest(one) for one in data]
    code, said = svp("cache", "browse", "c", "--out", "page")
    assert code == 0 and len(list(Path("page").rglob("*-small.webp"))) == 4, said


def test_what_the_command_says_of_a_wrong_address(
    bucket: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def images(address: str) -> tuple[int, str]:
        return svp("precompute", "--images", address, "--size", "tiny")

    assert images("s3://absent/x") == (3, "svp: s3://absent/x: no such bucket\n")
    code, said = images("s3://tests/typo")
    assert code == 3 and "no object below this address: is the prefix right?" in said
    for address in ("s3://key:secret@tests/x", "s3://tests/x?X-Amz-Signature=secret"):
        code, said = images(address)
        assert code == 2 and "read from the environment" in said and "secret" not in said
    code, said = images("ftp://host/x")
    assert code == 2 and "is no store" in said
    (tmp_path / "a.tar").write_bytes(bytes(1024))
    (tmp_path / "a.jsonl").write_text("{}")
    code, said = svp("precompute", "a.jsonl", "--images", "a.tar", "--size", "tiny")
    assert code == 3 and "a.tar: is a file: give the folder below which" in said
    code, said = images("nowhere")
    assert code == 3 and "--images nowhere: no such folder" in said
    assert not any(tmp_path.glob("caches/*"))
