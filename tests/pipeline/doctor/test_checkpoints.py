"""The model a training recipe starts from: listed by doctor and fetch, and how to get it is said."""

from pathlib import Path

import pytest

from svp.pipeline.doctor.report import doctor
from svp.pipeline.doctor.weight_search import needed_checkpoint
from svp.pipeline.errors import ConfigError, MissingError
from svp.pipeline.fetch.catalogue import CHECKPOINTS, find_remote
from svp.pipeline.fetch.fetch import offer_lines
from svp.train.options import TrainFlags, place_weights

GET = r"`hf download MBZUAI/GLaMM-GranD-Pretrained`.*--init hub:MBZUAI/GLaMM-GranD-Pretrained"


@pytest.fixture(autouse=True)
def nothing_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SVP_WEIGHTS", str(tmp_path / "w"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "h"))
    return tmp_path


def test_what_the_papers_recipe_starts_from_is_listed(nothing_there: Path) -> None:
    import re

    (need,) = needed_checkpoint("paper")
    assert not need.found and "GLaMM-GranD-Pretrained" in need.name
    assert re.search(GET, need.detail)
    lines = doctor(size="paper").lines()
    assert any("MISSING" in line and "GLaMM-GranD" in line for line in lines)
    assert doctor(size="paper").exit_code == 3
    assert needed_checkpoint("tiny") == []
    (small,) = needed_checkpoint("small")
    assert "--lm hub:lmsys/vicuna-7b-v1.5" in small.detail

    place = nothing_there / "w" / "GLaMM-GranD-Pretrained"
    place.mkdir(parents=True)
    (place / "config.json").write_text("{}")
    (need,) = needed_checkpoint("paper")
    assert need.found and str(place) in need.detail


def test_fetch_lists_them_and_says_who_brings_them() -> None:
    text = "\n".join(offer_lines())
    for name, known in CHECKPOINTS.items():
        assert name in text and f"hf download {known.repository}" in text
    for name in ("GLaMM-GranD-Pretrained", "glamm-refseg"):
        with pytest.raises(
            ConfigError, match="svp fetch does not bring .* get it with `hf download"
        ):
            find_remote(name)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (TrainFlags(init="GLaMM-GranD-Pretrained"), GET),
        (TrainFlags(init="models/GLaMM-GranD-Pretrained"), GET),
        (TrainFlags(init="nowhere"), "--init nowhere: does not exist: give a model folder"),
        (TrainFlags(lm="vicuna-7b-v1.5"), "`hf download lmsys/vicuna-7b-v1.5`"),
        (TrainFlags(sam_decoder="sam.pth"), "--sam-decoder sam.pth: does not exist: `svp fetch`"),
    ],
)
def test_a_model_that_is_not_there_says_how_to_get_it(flags: TrainFlags, message: str) -> None:
    with pytest.raises(MissingError, match=message):
        place_weights({"init": "none", "lm": "none", "sam_decoder": "none"}, flags)


def test_a_public_name_is_found_in_the_weight_folders(nothing_there: Path) -> None:
    place = nothing_there / "w" / "GLaMM-GranD-Pretrained"
    place.mkdir(parents=True)
    (place / "config.json").write_text("{}")
    (place / "pytorch_model.bin").write_bytes(b"x")
    model: dict[str, object] = {"init": "given"}
    found = place_weights(model, TrainFlags(init="GLaMM-GranD-Pretrained"))
    assert found.init == place and str(model["init"]).startswith("sha256:")


def test_weights_that_are_not_read_are_still_known_to_be_given(nothing_there: Path) -> None:
    """A decoder beside --init: what is checked before the hashing must know of it."""
    (nothing_there / "mobile_sam.pt").write_bytes(b"x")
    model: dict[str, object] = {"init": "given", "sam_decoder": "none"}
    place_weights(model, TrainFlags(sam_decoder="mobile_sam.pt"), read=False)
    assert model["sam_decoder"] == "given"
