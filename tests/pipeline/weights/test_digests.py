"""Digests follow the bytes, and a published file name needs the published bytes."""

import re
from pathlib import Path

import pytest
import torch

from svp.pipeline.errors import MissingError, WeightsError
from svp.pipeline.fetch.catalogue import RemoteFile
from svp.pipeline.weights import digests
from svp.pipeline.weights.digests import check_published, published, sha256_file
from svp.pipeline.weights.load import load_state_dict, require_digest

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_digest_follows_the_content(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert sha256_file(path) == ABC
    path.write_bytes(b"abcd")
    assert sha256_file(path) != ABC
    with pytest.raises(WeightsError, match=ABC):
        require_digest(path, ABC, "the recipe")


def test_a_file_is_read_once_per_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    sha256_file(path)
    monkeypatch.setattr(digests, "_sha256", lambda path: pytest.fail("read again"))
    assert sha256_file(path) == ABC


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="gone"):
        sha256_file(tmp_path / "gone")


def test_every_sam_file_has_size_and_sha256() -> None:
    names = [name for name in published() if "sam" in name]
    assert len(names) == 4
    for name in names:
        assert published()[name].exact
        assert re.fullmatch(r"sha256:[0-9a-f]{64}", published()[name].digest)


@pytest.mark.parametrize("name", ["sam_vit_b_01ec64.pth", "sam_vit_h_4b8939.pth", "mobile_sam.pt"])
def test_a_published_name_needs_the_published_bytes(tmp_path: Path, name: str) -> None:
    torch.save({"x": torch.zeros(1)}, tmp_path / name)
    with pytest.raises(WeightsError, match="has the name of a published file but not its content"):
        load_state_dict(tmp_path / name)


def test_right_name_and_size_with_wrong_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "public.pth"
    path.write_bytes(b"abc")
    good = RemoteFile("", "public.pth", 3, f"sha256:{ABC}")
    bad = RemoteFile("", "public.pth", 3, f"sha256:{'0' * 64}")
    monkeypatch.setattr(digests, "published", lambda: {"public.pth": good})
    check_published(path)
    monkeypatch.setattr(digests, "published", lambda: {"public.pth": bad})
    with pytest.raises(WeightsError, match=ABC):
        check_published(path)
