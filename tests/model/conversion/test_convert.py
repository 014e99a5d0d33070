"""Published checkpoints: every tensor is loaded, dropped by a named rule, or an error."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from support import FIXTURES
from svp.model.conversion import (
    Imported,
    build_imported,
    import_ris_checkpoint,
    open_ris_checkpoint,
)
from svp.model.conversion.key_mapping import LAYOUTS
from svp.model.conversion.llama_shape import LlamaShape, read_shape
from svp.model.language.load import read_config
from svp.model.projectors import build_projector
from svp.pipeline.display import fold
from svp.pipeline.errors import ConfigError, SvpError, WeightsError
from svp.pipeline.weights.fill_module import fill

KEYS = FIXTURES / "keys" / "glamm_refseg.tsv"
State = dict[str, Tensor]
MICRO = LlamaShape(vocab=47, hidden=16, intermediate=24, layers=2, heads=2, kv_heads=2)


def published() -> State:
    """GLaMM-RefSeg: every name, shape and dtype; each tensor is one number, seen many times."""
    state = {}
    for line in KEYS.read_text().splitlines():
        name, dtype, shape = line.split("\t")
        kind = torch.float32 if dtype == "-" else getattr(torch, dtype)
        state[name] = torch.ones(1, dtype=kind).expand(*map(int, shape.split("x")))
    return state


def lisa() -> State:
    """LISA-7B-v1 (923 names): other alias of SAM, 3 tokens fewer, one linear, no region encoder."""
    state = {}
    for name, tensor in published().items():
        if tensor.shape[:1] == (32007,):
            tensor = tensor[:32004]
        if "region_encoder" not in name and "mm_projector" not in name:
            state[name.replace("grounding_encoder", "visual_model")] = tensor
    state["model.mm_projector.weight"] = torch.ones(1).expand(4096, 1024)
    state["model.mm_projector.bias"] = torch.ones(1).expand(4096)
    return state


@pytest.fixture(scope="module")
def micro() -> State:
    """A GLaMM checkpoint with real numbers: 2 layers of width 16, SAM's full-size decoder."""
    sizes = {4096: 16, 11008: 24, 32007: 47}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {
            name: torch.randn([sizes.get(n, n) for n in tensor.shape]).to(tensor.dtype)
            for name, tensor in published().items()
            if "image_encoder" not in name and "region_encoder" not in name
            if not any(f"model.layers.{i}." in name for i in range(2, 32))
        }


def imported(state: State, **options: object) -> Imported:
    return import_ris_checkpoint(state, MICRO, base_vocab=40, **options)  # type: ignore[arg-type]


def test_every_published_tensor_is_accounted_for() -> None:
    state = published()
    report = import_ris_checkpoint(state, LlamaShape()).report
    assert report.total == len(state) == 968
    assert {part.group: part.tensors for part in report.loaded} == {
        "lm": 291,
        "to_prompt": 4,
        "mask_decoder": 120,
        "prompt_encoder": 17,
    }
    assert sorted(report.dropped.values()) == [4, 32, 43, 457]
    sizes = {part.group: part.parameters for part in report.loaded}
    assert sizes["to_prompt"] == 17_830_144
    assert sizes["mask_decoder"] == 4_058_340
    assert report.lines()[0] == (
        "968/968 tensors: 432 loaded, 536 dropped, 0 missing (layout glamm)"
    )
    dtypes = {part.group: part.dtypes for part in report.loaded}
    assert dtypes["lm"] == ("bfloat16",)
    assert dtypes["to_prompt"] == dtypes["mask_decoder"] == ("float32",)


def test_optional_groups_are_loaded_when_asked_for() -> None:
    found = import_ris_checkpoint(
        published(), LlamaShape(), keep=("mm_projector", "sam_image_encoder")
    )
    assert len(found.sam_image_encoder) == 457
    assert "893 loaded, 75 dropped" in str(found.report)
    with torch.device("meta"):
        mlp = build_projector("mlp", in_dim=1024, llm_dim=4096)
    named = type(mlp).from_original(found.mm_projector)
    assert {name: t.shape for name, t in named.items()} == {
        name: t.shape for name, t in mlp.state_dict().items()
    }


def test_lisa_layout() -> None:
    state = lisa()
    assert len(state) == 923
    found = import_ris_checkpoint(state, LlamaShape(vocab=32004), keep=("mm_projector",))
    assert found.layout.ids()["[SEG]"] == 32003
    assert set(found.mm_projector) == {"weight", "bias"}
    assert "923/923 tensors" in str(found.report)
    with pytest.raises(WeightsError, match=r"32,004 rows, layout glamm has 32,007.*layout"):
        import_ris_checkpoint(state, LlamaShape(vocab=32004), layout="glamm")


def test_glamm_ids() -> None:
    ids = LAYOUTS["glamm"].ids()
    assert (ids["<im_start>"], ids["[SEG]"], ids["</p>"]) == (32000, 32004, 32006)


@pytest.mark.parametrize("alias", ["visual_model", "grounding_encoder"])
def test_either_name_of_sam_is_understood(micro: State, alias: str) -> None:
    renamed = {name.replace("grounding_encoder", alias): t for name, t in micro.items()}
    found = imported(renamed, layout="glamm")
    assert len(found.mask_decoder) == 120


@pytest.mark.parametrize("prefix", ["module.", "base_model.model.", "some.wrapper.of.theirs."])
def test_prefixes_do_not_matter(micro: State, prefix: str) -> None:
    found = imported({prefix + name: tensor for name, tensor in micro.items()})
    plain = imported(micro)
    assert found.lm.keys() == plain.lm.keys()
    assert all(found.lm[name] is plain.lm[name] for name in plain.lm)


def test_all_missing_and_unknown_tensors_are_named(micro: State) -> None:
    state = dict(micro)
    gone = [name for name in state if "norm_final_attn" in name or "1.mlp" in name]
    for name in gone:
        del state[name]
    odd = {"model.layers.1.mlp.extra.weight", "model.grounding_encoder.mask_decoder.new.weight"}
    state |= {name: torch.ones(1) for name in odd}
    with pytest.raises(WeightsError) as caught:
        imported(state)
    text = str(caught.value)
    assert f"{len(gone)} missing, 2 unknown" in text
    for piece in ("gate_proj", "up_proj", "down_proj", "norm_final_attn.weight", ".bias"):
        assert piece in text
    assert "mlp.extra.weight" in text
    assert "mask_decoder: new.weight" in text


def test_a_cut_off_last_layer_is_missing(micro: State) -> None:
    state = {name: t for name, t in micro.items() if "model.layers.1." not in name}
    with pytest.raises(WeightsError, match="9 missing"):
        imported(state)


def test_wrong_shapes_and_second_tensors_are_named(micro: State) -> None:
    state = dict(micro)
    state["model.norm.weight"] = torch.ones(17)
    state["other.lm_head.weight"] = state["lm_head.weight"]
    state["model.text_hidden_fcs.0.0.bias"] = torch.ones(16, dtype=torch.int64)
    with pytest.raises(WeightsError) as caught:
        imported(state)
    assert "3 wrong" in str(caught.value)
    assert "has 17 float32, needs 16 float" in str(caught.value)
    assert "a second tensor for lm: lm_head.weight" in str(caught.value)
    assert "has 16 int64, needs 16 float" in str(caught.value)


@pytest.mark.parametrize("part", ["model.embed_tokens.weight", "lm_head.weight"])
@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_untrained_rows_of_added_tokens_are_refused(micro: State, part: str, value: float) -> None:
    state = dict(micro)
    state[part] = state[part].clone()
    state[part][44] = value
    with pytest.raises(WeightsError, match=r"row 44 \(\[SEG\]\) has norm"):
        imported(state)


def test_unmerged_lora_is_merged(micro: State) -> None:
    """DeepSpeed saves before merging, under peft 0.5's names."""
    state = dict(micro)
    name = "model.layers.1.self_attn.q_proj"
    down, up = torch.randn(4, 16), torch.randn(16, 4)
    state |= {f"{name}.lora_A.default.weight": down, f"{name}.lora_B.default.weight": up}
    found = imported(state, lora_alpha=16.0)
    wanted = micro[f"{name}.weight"].float() + 4 * up @ down
    assert torch.equal(found.lm[f"{name}.weight"], wanted.bfloat16())
    assert found.report.merged == 2
    assert any("2 matrices merged" in line for line in found.report.lines())


def test_newer_peft_names_the_linear_base_layer(micro: State) -> None:
    name = "model.layers.0.mlp.up_proj"
    state = {n.replace(name, f"{name}.base_layer"): t for n, t in micro.items()}
    assert torch.equal(imported(state).lm[f"{name}.weight"], micro[f"{name}.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, n: s.pop(f"{n}.lora_B.default.weight"), r"lora: .*lora_B"),
        (lambda s, n: s.update({f"{n}.lora_A.default.weight": torch.ones(3, 16)}), "LoRA of 3x16"),
    ],
)
def test_half_a_lora_is_refused(
    micro: State, change: Callable[[State, str], object], message: str
) -> None:
    name = "model.layers.0.self_attn.v_proj"
    state = dict(micro)
    state[f"{name}.lora_A.default.weight"] = torch.ones(4, 16)
    state[f"{name}.lora_B.default.weight"] = torch.ones(16, 4)
    change(state, name)
    with pytest.raises(WeightsError, match=message):
        imported(state)


def test_unknown_options_are_refused(micro: State) -> None:
    with pytest.raises(ConfigError, match="allowed are auto, glamm, lisa"):
        imported(micro, layout="llava")
    with pytest.raises(ConfigError, match="allowed are sam_image_encoder, mm_projector"):
        imported(micro, keep=("lora",))
    with pytest.raises(WeightsError, match="no known layout"):
        imported({"model.norm.weight": torch.ones(16)})


def test_tensors_land_in_the_model_in_its_dtypes(micro: State) -> None:
    projector = build_projector("mlp", in_dim=8, llm_dim=16)
    model = build_imported(imported(micro), projector, dtype=torch.bfloat16)
    state = model.state_dict()
    assert state["lm.model.layers.1.mlp.up_proj.weight"].dtype == torch.bfloat16
    assert torch.equal(
        state["lm.model.layers.1.mlp.up_proj.weight"], micro["model.layers.1.mlp.up_proj.weight"]
    )
    assert torch.equal(state["to_prompt.2.bias"], micro["model.text_hidden_fcs.0.2.bias"])
    prefix = "model.grounding_encoder."
    token = "mask_decoder.iou_token.weight"
    assert torch.equal(state["mask_head.decoder.iou_token.weight"], micro[prefix + token])
    assert all(not tensor.is_meta for tensor in model.state_dict().values())
    assert all(not buffer.is_meta for buffer in model.buffers())


def test_float32_parts_are_cast_to_a_half_module() -> None:
    target = torch.nn.Linear(3, 2).bfloat16()
    source = {"weight": torch.full((2, 3), 1 / 3), "bias": torch.ones(2)}
    fill(target, source, "test")
    assert target.weight.dtype == torch.bfloat16
    assert torch.equal(target.weight, source["weight"].bfloat16())


@pytest.mark.parametrize("on_meta", [False, True])
def test_non_finite_numbers_are_refused(on_meta: bool) -> None:
    with torch.device("meta" if on_meta else "cpu"):
        target = torch.nn.Linear(3, 2)
    with pytest.raises(WeightsError, match="test: bias holds NaN or infinity"):
        fill(target, {"weight": torch.ones(2, 3), "bias": torch.tensor([1.0, torch.nan])}, "test")


def test_another_architecture_is_refused() -> None:
    with pytest.raises(WeightsError, match="2 tensors differ in name or shape: bias, weight"):
        fill(
            torch.nn.Linear(3, 2, bias=False),
            {"weight": torch.ones(3, 2), "bias": torch.ones(1)},
            "x",
        )


def test_a_sharded_folder(micro: State, tmp_path: Path) -> None:
    names, where = sorted(micro), {}
    for k in range(2):
        part = {name: micro[name] for name in names[k::2]}
        torch.save(part, tmp_path / f"pytorch_model-{k}.bin")
        where |= dict.fromkeys(part, f"pytorch_model-{k}.bin")
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    config = {
        "model_type": "llava",
        "vocab_size": 47,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 2048,
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="vocabulary of 47 rows"):
        open_ris_checkpoint(tmp_path)  # everything fits but LLaMA's 32,000 tokens
    save_file(micro, tmp_path / "all.safetensors")
    config["rope_scaling"] = {"type": "linear", "factor": 4.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="rope_scaling"):
        open_ris_checkpoint(tmp_path / "all.safetensors")


@given(st.sets(st.integers(0, 99), min_size=1), st.booleans())
def test_folded_names_hold_every_number(numbers: set[int], tail: bool) -> None:
    names = [f"a.{n}.b" for n in sorted(numbers)] + ["c"] * tail
    (folded, *rest) = fold(names)
    inner = folded.removeprefix("a.").removesuffix(".b").strip("{}")
    back: set[int] = set()
    for run in inner.split(","):
        first, _, last = run.partition("-")
        back |= set(range(int(first), int(last or first) + 1))
    assert back == numbers
    assert rest == ["c"] * tail


def test_messages_are_printable(micro: State) -> None:
    with pytest.raises(SvpError) as caught:
        imported(dict(micro) | {"bad\x1b[31m": torch.ones(1)})
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("read", [read_shape, read_config])
@pytest.mark.parametrize("name", ["auto_map", "_attn_implementation_internal"])
def test_a_config_that_asks_for_code_is_refused(
    tmp_path: Path, read: Callable[[Path], object], name: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", name: "a/b:c"}))
    with pytest.raises(WeightsError, match=f"{name} can make a library run code"):
        read(tmp_path)
