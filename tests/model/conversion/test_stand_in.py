"""The stand-in folders: every name, dtype and file of the published ones, and LLaMA's vocabulary."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from support import FIXTURES
from svp.model.conversion import open_ris_checkpoint
from svp.model.conversion.key_mapping import LAYOUTS
from svp.model.conversion.stand_in import SMALL, write_standin
from svp.pipeline.weights.load import load_state_dict

sentencepiece = pytest.importorskip("sentencepiece", reason="pip install 'svp[train]'")
KEYS = FIXTURES / "keys" / "glamm_refseg.tsv"
LATER = tuple(f"model.layers.{layer}." for layer in range(SMALL.layers, 32))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def find(layout: str) -> Path:
        if layout not in made:
            made[layout] = write_standin(tmp_path_factory.mktemp(layout), layout)
        return made[layout]

    return find


def test_glamms_names_and_dtypes_are_the_published_ones(folder: Callable[[str], Path]) -> None:
    state = load_state_dict(folder("glamm"))
    rows = [line.split("\t") for line in KEYS.read_text().splitlines()]
    published = {name: (dtype, shape) for name, dtype, shape in rows if not name.startswith(LATER)}
    assert state.keys() == published.keys()
    for name, tensor in state.items():
        dtype, shape = published[name]
        assert dtype in ("-", str(tensor.dtype).removeprefix("torch.")), name
        assert tensor.ndim == shape.count("x") + 1, name
        if "mask_decoder" in name or "prompt_encoder" in name:
            assert "x".join(map(str, tensor.shape)) == shape, name


def test_files_are_the_published_ones(folder: Callable[[str], Path]) -> None:
    found = {file.name for file in folder("glamm").iterdir()}
    assert found == {
        "config.json", "generation_config.json", "pytorch_model.bin.index.json",
        "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin",
        "tokenizer.model", "added_tokens.json", "special_tokens_map.json", "tokenizer_config.json",
    }  # fmt: skip
    assert json.loads((folder("glamm") / "config.json").read_text())["model_type"] == "llava"
    assert (folder("glamm") / "added_tokens.json").stat().st_size == 137  # as on the hub


@pytest.mark.parametrize("layout", ["glamm", "lisa"])
def test_the_folder_is_imported_whole(folder: Callable[[str], Path], layout: str) -> None:
    found = open_ris_checkpoint(folder(layout))
    assert found.layout.name == layout and found.report.ok
    added = json.loads((folder(layout) / "added_tokens.json").read_text())
    assert added == LAYOUTS[layout].ids()


def test_lisa_has_one_linear_and_no_region_encoder(folder: Callable[[str], Path]) -> None:
    names = load_state_dict(folder("lisa")).keys()
    assert {n for n in names if "mm_projector" in n} == {
        "model.mm_projector.weight",
        "model.mm_projector.bias",
    }
    assert not any("region_encoder" in n for n in names)


def test_the_vocabulary_has_llamas_form(folder: Callable[[str], Path]) -> None:
    model = sentencepiece.SentencePieceProcessor(
        model_file=str(folder("glamm") / "tokenizer.model")
    )
    assert model.get_piece_size() == 32_000
    assert [model.id_to_piece(n) for n in (0, 1, 2, 3, 258, 259)] == [
        "<unk>", "<s>", "</s>", "<0x00>", "<0xFF>", "▁▁",
    ]  # fmt: skip
    assert model.encode("the  red cup", out_type=str) == ["▁the", "▁", "▁red", "▁cup"]
    assert model.encode("é", out_type=str) == ["▁", "<0xC3>", "<0xA9>"]
