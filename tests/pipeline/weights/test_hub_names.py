"""Encoders in the hub's local cache: found there, named `hub:OWNER/NAME`, or told how to get them."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from svp.cli import main
from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.errors import ConfigError, MissingError
from svp.pipeline.fetch.encoder_specs import ENCODERS
from svp.pipeline.weights.locate import given_weights, search_weights

# One of each family and way to get the weights.
_EACH = {(row.module, row.remote is None): row for row in ENCODERS.values() if row.hub}
HUBS = {row.name: row.hub for row in _EACH.values()}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no weights anywhere."""
    import huggingface_hub

    client = partial(huggingface_hub.snapshot_download, cache_dir=tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.snapshot_download", client)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SVP_WEIGHTS", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def keep(cache: Path, repository: str, files: Sequence[str]) -> Path:
    """The repository as the hub's own client lays it out."""
    place = cache / f"models--{repository.replace('/', '--')}"
    folder = place / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).write_text(json.dumps({}))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0" * 40)
    return folder


def precompute(*words: str) -> Result:
    write_scenes(Path("scenes"), images=2, seed=0, splits={"val": 2})
    asked = ["--dataset", "scenes", "--split", "val", "--device", "cpu", "--out", "cache"]
    return CliRunner().invoke(main, ["precompute", *asked, "--size", "tiny", *words])


@pytest.mark.parametrize("encoder", HUBS)
def test_what_hf_download_brought_is_found(encoder: str, cache: Path) -> None:
    assert search_weights(encoder) is None
    folder = keep(cache, HUBS[encoder], ["config.json", "pytorch_model.bin"])
    assert search_weights(encoder) == folder
    assert given_weights(f"hub:{HUBS[encoder]}", "--encoder-weights") == folder
    (folder / "pytorch_model.bin").unlink()  # other programs fetch a configuration alone
    assert search_weights(encoder) is None


@pytest.mark.parametrize("encoder", HUBS)
def test_one_error_says_where_it_looked_and_the_command(encoder: str, cache: Path) -> None:
    found = precompute("--encoder", encoder)
    assert found.exit_code == 3 and found.stderr.count("svp: ") == 1
    assert f"for {HUBS[encoder]} in the hub's local cache" in found.stderr
    fetched = "svp fetch " + encoder if ENCODERS[encoder].remote else "hf download " + HUBS[encoder]
    assert f"Get them with `{fetched}`" in found.stderr


@pytest.mark.parametrize("flag", ["--encoder-weights", "--sam-weights"])
@pytest.mark.parametrize(
    ("given", "code", "remedy"),
    [
        ("hub:openai/clip-vit-large-patch14", 3, "`hf download openai/clip-vit-large-patch14`"),
        ("openai/clip-vit-large-patch14", 3, "hub's local cache is hub:openai/clip-vit-large-p"),
        ("no/such/file.pth", 3, "no such weight file or folder: `svp fetch` lists"),
        ("hub:a name", 2, "need hub:owner/name"),
    ],
)
def test_names_of_the_hub_as_weights(
    flag: str, given: str, code: int, remedy: str, cache: Path
) -> None:
    model = ("--encoder", "clip-large") if "encoder" in flag else ("--sam-model", "vit_b")
    found = precompute(*model, flag, given)
    assert found.exit_code == code and found.stderr.count("svp: ") == 1
    assert given in found.stderr and remedy in found.stderr.replace("\n", " ")


@pytest.mark.parametrize("prefix", ["", "hub:"])
def test_an_encoder_by_its_name_on_the_hub(prefix: str, cache: Path) -> None:
    for name, hub in HUBS.items():
        found = precompute("--encoder", prefix + hub)
        assert found.exit_code == 2 and f"{hub} is called {name} here" in found.stderr


def test_given_weights_raise_what_they_say(cache: Path) -> None:
    with pytest.raises(MissingError, match="--x hub:a/b: a/b is not in the local hub cache"):
        given_weights(Path("hub:a/b"), "--x")
    with pytest.raises(ConfigError, match="owner/name"):
        given_weights("hub:../b", "--x")
