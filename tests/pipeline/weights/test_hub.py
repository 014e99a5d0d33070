"""`hub:owner/name` is a folder of the local hub cache; the network is asked only when told to."""

from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svp.pipeline.errors import ConfigError, MissingError
from svp.pipeline.weights.locate import LM_FILES, hub_folder
from svp.train.options import TrainFlags, place_weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    """A repository `lab/vicuna` as the hub's own client lays it out."""
    repository = tmp_path / "models--lab--vicuna"
    folder = repository / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return folder


def test_a_cached_repository_is_found_without_network(
    cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    client = partial(huggingface_hub.snapshot_download, cache_dir=tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", client)
    assert hub_folder("lab/vicuna", LM_FILES) == cached


def test_what_is_not_cached_is_named_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    def nothing(repository: str, **options: object) -> str:
        assert (repository, options["revision"]) == ("lab/vicuna", "v1.5")
        assert options["local_files_only"] is True
        raise LocalEntryNotFoundError("nothing here")

    monkeypatch.setattr("huggingface_hub.snapshot_download", nothing)
    with pytest.raises(MissingError, match=r"hf download lab/vicuna"):
        hub_folder("lab/vicuna@v1.5", LM_FILES)


PIECE = st.text(alphabet="ab/.@-_ \\:", max_size=6)


@given(st.builds("{}..{}".format, PIECE, PIECE))
def test_no_name_leaves_the_cache(name: str) -> None:
    with pytest.raises(ConfigError, match="owner/name"):
        hub_folder(name, LM_FILES)


def test_training_takes_a_hub_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    model: dict[str, object] = {"init": "none"}
    places = place_weights(model, TrainFlags(lm="hub:lab/vicuna"))
    assert places.lm == tmp_path
    assert str(model["lm"]).startswith("sha256:")
