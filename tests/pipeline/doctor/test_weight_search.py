"""Which weights a recipe needs and where they are: the first question of every user."""

from pathlib import Path

import pytest

from svp.pipeline.doctor.weight_search import needed_weights
from svp.pipeline.recipe import FeatureConfig, Recipe, SuperpixelConfig
from svp.pipeline.records import LocalPaths
from svp.pipeline.weights import locate

PAPER = Recipe(
    superpixels=SuperpixelConfig(model="vit_h", weights="sha256:" + "0" * 64),
    features=FeatureConfig(encoder="dinov2-large", size=336, weights="sha256:" + "0" * 64),
)


@pytest.fixture(autouse=True)
def only_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SVP_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(locate, "_in_hub_cache", lambda name: None)


def test_nothing_there_names_size_places_and_remedy(tmp_path: Path) -> None:
    sam, encoder = needed_weights(PAPER)
    assert (sam.name, encoder.name) == ("superpixels vit_h", "encoder dinov2-large")
    assert not sam.found and not encoder.found
    for part in ("2,565 MB", "sam_vit_h_4b8939.pth", str(tmp_path), "svp fetch vit_h"):
        assert part in sam.detail
    assert "--encoder-weights PATH" in encoder.detail and "1,218 MB" in encoder.detail


def test_found_with_the_published_size(tmp_path: Path) -> None:
    with open(tmp_path / "sam_vit_h_4b8939.pth", "wb") as file:
        file.truncate(2_564_550_879)  # sparse: nothing is written
    sam, _ = needed_weights(PAPER)
    assert sam.found and not sam.fault
    assert "2,564.6 MB, found at" in sam.detail and str(tmp_path) in sam.detail


def test_a_cut_off_download_is_seen(tmp_path: Path) -> None:
    (tmp_path / "sam_vit_h_4b8939.pth").write_bytes(b"PK" * 50)
    sam, _ = needed_weights(PAPER)
    assert sam.fault == "100 bytes, the published file has 2,564,550,879"


def test_a_model_folder_counts_its_weight_files(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(3_000_000))
    (folder / "README").write_bytes(bytes(9_000_000))
    _, encoder = needed_weights(PAPER, LocalPaths(images=tmp_path, encoder=folder))
    assert encoder.found and encoder.detail.startswith("3.0 MB") and not encoder.fault


def test_an_empty_model_folder_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    _, encoder = needed_weights(PAPER, LocalPaths(images=tmp_path, encoder=tmp_path / "mine"))
    assert "no weights in this folder" in encoder.fault


def test_a_given_path_that_is_not_there_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "dinov2_vitl14_reg4_pretrain.pth").write_bytes(b"x")
    _, encoder = needed_weights(PAPER, LocalPaths(images=tmp_path, encoder=tmp_path / "gone.pth"))
    assert not encoder.found and "given with --encoder-weights, is not there" in encoder.detail


def test_random_weights_and_slic_need_nothing() -> None:
    recipe = Recipe(
        superpixels=SuperpixelConfig(source="slic"),
        features=FeatureConfig(encoder="clip-tiny", weights="random:7"),
    )
    (encoder,) = needed_weights(recipe)
    assert encoder.found and encoder.detail == "random weights (seed 7): no file needed"


def test_tiny_weights_are_looked_for_in_the_package() -> None:
    for need, name in zip(needed_weights(Recipe()), ("sam", "dinov2"), strict=True):
        assert f"workflows/tiny/{name}.safetensors" in need.detail
