"""config.json of a stranger is data: what could make a library run code is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from svp.pipeline.encoders.dinov2 import expected_config
from svp.pipeline.errors import MissingError, WeightsError
from svp.pipeline.fetch.encoder_specs import ENCODERS
from svp.pipeline.weights.locate import ENCODER_FILES, hub_folder
from svp.pipeline.weights.model_config import check_config


def write(folder: Path, config: object) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    "extra",
    [
        {"auto_map": {"AutoModel": "evil.Model"}},
        {"_attn_implementation_internal": "kernels/evil"},
        {"_attn_implementation": "someone/kernel"},
        {"trust_remote_code": True},
        {"nested": [{"deeper": {"auto_map": {}}}]},
        {"vision_config": {"_experts_implementation_internal": "x"}},
        {"custom_pipelines": {}},
        {"__class__": "os.system"},
    ],
)
def test_code_in_a_config_is_refused(tmp_path: Path, extra: dict[str, object]) -> None:
    folder = write(tmp_path, expected_config("dinov2-large") | extra)
    with pytest.raises(WeightsError, match="config.json: refused, .* can make a library run code"):
        check_config(folder, expected_config("dinov2-large"))


def test_the_published_form_passes(tmp_path: Path) -> None:
    known = {"_name_or_path": "facebook/x", "torch_dtype": "float32", "layerscale_value": 1.0}
    check_config(write(tmp_path, expected_config("dinov2-large") | known), {})
    check_config(tmp_path, expected_config("dinov2-large"))


def test_another_model_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, expected_config("dinov2-base"))
    with pytest.raises(WeightsError, match="hidden_size is 768, this encoder has 1024"):
        check_config(folder, expected_config("dinov2-large"))


def test_sub_configuration_is_compared(tmp_path: Path) -> None:
    folder = write(tmp_path, {"hidden_size": 1, "vision_config": {"hidden_size": 1024}})
    check_config(folder, {"hidden_size": 1024}, "vision_config")
    with pytest.raises(WeightsError, match="hidden_size is 1024"):
        check_config(folder, {"hidden_size": 2}, "vision_config")


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1, "a": 2}', "", "[" * 100_000])
def test_malformed_config_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WeightsError, match="config.json"):
        check_config(tmp_path, {})


def test_no_config_at_all(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="config.json"):
        check_config(tmp_path, {})


@pytest.mark.parametrize("allowed", [False, True])
def test_network_only_when_allowed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, allowed: bool
) -> None:
    calls: list[dict[str, Any]] = []

    def snapshot(repo: str, **options: Any) -> str:
        calls.append({"repo": repo, **options})
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    hub = ENCODERS["dinov2-large"].hub
    assert hub_folder(hub, ENCODER_FILES, allow_download=allowed) == tmp_path
    assert calls[0]["repo"] == "facebook/dinov2-with-registers-large"
    assert calls[0]["local_files_only"] is not allowed
    assert all(name.endswith((".json", ".safetensors")) for name in calls[0]["allow_patterns"])


def test_not_in_the_hub_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot(repo: str, **options: Any) -> str:
        raise LocalEntryNotFoundError("nothing\nhere")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    with pytest.raises(MissingError, match="not in the local hub cache"):
        hub_folder(ENCODERS["dinov2-large"].hub, ENCODER_FILES)
