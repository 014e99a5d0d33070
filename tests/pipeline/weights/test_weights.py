"""The guarded loader: good files of every layout load, hostile and damaged ones are refused (T22)."""

import ast
import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import svp
from svp.pipeline.errors import MissingError, WeightsError
from svp.pipeline.weights.load import load_state_dict, sha256_file, weights_digest

State = dict[str, torch.Tensor]


def state() -> State:
    generator = torch.Generator().manual_seed(0)
    return {
        "a.weight": torch.randn(3, 5, generator=generator),
        "a.bias": torch.randn(3, generator=generator).half(),
        "count": torch.tensor(7),
    }


def same(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) and first[name].dtype == second[name].dtype
        for name in first
    )


class Payload:
    """Runs a command when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


# --- what loads -----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "teacher"])
def test_torch_files(tmp_path: Path, suffix: str, zipped: bool, wrapper: str | None) -> None:
    path = tmp_path / f"w{suffix}"
    content: Any = OrderedDict(state())
    if wrapper:
        content = {wrapper: content, "epoch": 3, "args": {"lr": 0.1}}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert same(load_state_dict(path), state())


def test_safetensors(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "w.safetensors")
    assert same(load_state_dict(tmp_path / "w.safetensors"), state())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_zip_checkpoints_are_mapped_not_copied(tmp_path: Path) -> None:
    """Workers on one machine then share one copy of a 2.4 GB model."""
    path = tmp_path / "w.pth"
    torch.save(state(), path)
    loaded = load_state_dict(path)
    assert str(path) in Path("/proc/self/maps").read_text()
    assert same(loaded, state())


def test_parameters_come_back_as_plain_tensors(tmp_path: Path) -> None:
    torch.save({"p": torch.nn.Parameter(torch.ones(2))}, tmp_path / "w.pth")
    loaded = load_state_dict(tmp_path / "w.pth")
    assert not loaded["p"].requires_grad


def sharded(folder: Path, kind: str = "safetensors") -> Path:
    """A folder with two shards and an index."""
    parts = {f"s-1.{kind}": ["a.weight"], f"s-2.{kind}": ["a.bias", "count"]}
    for file, names in parts.items():
        part = {name: state()[name] for name in names}
        if kind == "bin":
            torch.save(part, folder / file)
        else:
            save_file(part, folder / file)
    table = {name: file for file, names in parts.items() for name in names}
    stem = "model" if kind == "safetensors" else "pytorch_model"
    index = folder / f"{stem}.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": table}))
    return index


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_sharded_folder(tmp_path: Path, kind: str) -> None:
    sharded(tmp_path, kind)
    assert same(load_state_dict(tmp_path), state())


def test_digest_of_a_folder(tmp_path: Path) -> None:
    single = tmp_path / "single"
    single.mkdir()
    save_file(state(), single / "model.safetensors")
    (single / "config.json").write_text("{}")
    assert weights_digest(single) == sha256_file(single / "model.safetensors")
    many = tmp_path / "many"
    many.mkdir()
    sharded(many)
    before = weights_digest(many)
    save_file({"a.weight": torch.zeros(3, 5)}, many / "s-1.safetensors")
    assert weights_digest(many) != before


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_payload_is_refused_and_never_runs(tmp_path: Path, zipped: bool, suffix: str) -> None:
    marker, path = tmp_path / "pwned", tmp_path / f"w{suffix}"
    content = {"model": state(), "extra": Payload(marker)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match="refused: the file holds Python objects") as caught:
        load_state_dict(path)
    assert not marker.exists()
    message = str(caught.value)
    assert "system" in message, "the message names what the file asked for"
    assert "weights_only" not in message, "never advise the unsafe load"
    assert message.isprintable()


def test_bare_pickle_is_refused(tmp_path: Path) -> None:
    marker, path = tmp_path / "pwned", tmp_path / "w.pth"
    path.write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(WeightsError, match="not a PyTorch checkpoint"):
        load_state_dict(path)
    assert not marker.exists()


def test_force_variable_does_not_open_the_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    marker, path = tmp_path / "pwned", tmp_path / "w.pth"
    torch.save({"x": Payload(marker)}, path)
    with pytest.raises(WeightsError):
        load_state_dict(path)
    assert not marker.exists()


def test_one_attempt_per_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No retry with other settings after a refusal, as Stanza 1.12 did."""
    calls: list[dict[str, Any]] = []
    real = torch.load

    def spy(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs)
        return real(*args, **kwargs)

    monkeypatch.setattr(torch, "load", spy)
    path = tmp_path / "w.pth"
    torch.save({"x": Payload(tmp_path / "pwned")}, path)
    with pytest.raises(WeightsError):
        load_state_dict(path)
    assert [call["weights_only"] for call in calls] == [True]


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
@pytest.mark.parametrize("suffix", [".pth", ".bin", ".safetensors"])
def test_damaged_bytes_never_escape_as_other_errors(
    tmp_path: Path, suffix: str, data: st.DataObject
) -> None:
    """Flipped, cut or inserted bytes: the file loads or is refused, nothing else happens."""
    path = tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        save_file(state(), path)
    else:
        torch.save(state(), path, _use_new_zipfile_serialization=suffix == ".pth")
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path.write_bytes(bytes(content))
    try:
        load_state_dict(path)
    except (WeightsError, MissingError) as error:
        assert str(error).isprintable()


# --- the whole package ----------------------------------------------------------------------------

FORBIDDEN = {
    ("pickle", "load"),
    ("pickle", "loads"),
    ("joblib", "load"),
    ("yaml", "load"),
    ("yaml", "unsafe_load"),
    ("yaml", "full_load"),
    ("jit", "load"),
    ("dill", "load"),
    ("marshal", "loads"),
    ("shelve", "open"),
}


def calls(path: Path) -> list[tuple[str, str, dict[str, ast.expr]]]:
    """(owner, function, keywords) of every call in a file; owner is "" for plain names."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            keywords = {k.arg: k.value for k in node.keywords if k.arg}
            if isinstance(node.func, ast.Name):
                found.append(("", node.func.id, keywords))
            elif isinstance(node.func, ast.Attribute):
                owner = ast.unparse(node.func.value).rsplit(".", 1)[-1]
                found.append((owner, node.func.attr, keywords))
    return found


def test_no_other_unsafe_loading_in_the_package() -> None:
    root = Path(svp.__file__).parent
    folders = ("pipeline", "model", "train", "integrations", "workflows")
    files = [root / "cli.py", *(p for name in folders for p in (root / name).rglob("*.py"))]
    loaders = set()
    for path in files:
        for owner, name, keywords in calls(path):
            assert (owner, name) not in FORBIDDEN, f"{path}: {owner}.{name}"
            assert not (owner == "" and name in {"eval", "exec", "__import__"}), path
            allow = keywords.get("allow_pickle")
            assert allow is None or ast.unparse(allow) == "False", path
            if (owner, name) == ("torch", "load"):
                loaders.add(path.relative_to(root))
                assert ast.unparse(keywords["weights_only"]) == "True", path
    # The recipes that remake the shipped weights resume from their own file; no user input there.
    outside = {path for path in loaders if path.parts[0] != "workflows"}
    assert outside == {Path("pipeline/weights/load.py")}
