"""An exported model is the model: written whole or not at all, loaded back equal."""

import errno
import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import save_file

import svp
from support.micro_ris import CHANNELS, SEG, SVP, WIDTH, micro_batch, micro_config, micro_model
from support.stages import STAGE1
from svp.model.language.adapters import Lora
from svp.model.pretrained import Card, ProjectorSpec, load_pretrained, pretrained, save_pretrained
from svp.model.pretrained.peft_adapters import peft_config
from svp.model.ris import RisModel
from svp.model.trainable import set_trainable
from svp.pipeline.errors import CacheError, ConfigError, MissingError, WeightsError
from svp.pipeline.weights.load import weights_digest
from svp.train.data.tokenizer import load_vocabulary

TINY = Path(svp.__file__).parent / "workflows/tiny/lm"
SPEC = ProjectorSpec(name="svp", in_dim=CHANNELS, llm_dim=WIDTH, options=dict(SVP))


def save(model: RisModel, folder: Path, **options: Any) -> Path:
    options = {"projector": SPEC, "tokenizer": None, "card": Card("test")} | options
    save_pretrained(model, folder, **options)
    return folder


def masks(model: RisModel) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat(model.eval().predict(micro_batch()))


def test_a_model_comes_back_bit_for_bit(tmp_path: Path) -> None:
    model = micro_model("svp")
    model.projector.set_sspe(False)
    model.mask_state = "at_seg"
    assert "mask_prompt" not in (save(model, tmp_path / "usual") / "config.json").read_text()
    model.mask_prompt = "pointed"
    back = load_pretrained(save(model, tmp_path / "m"))
    assert {n: t.dtype for n, t in back.state_dict().items()} == {
        n: t.dtype for n, t in model.state_dict().items()
    }
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in back.state_dict().items())
    assert (back.mask_state, back.mask_prompt) == ("at_seg", "pointed")
    assert not back.projector.add_sspe
    torch.testing.assert_close(masks(back), masks(model), rtol=1e-5, atol=1e-6)
    assert not any(p.requires_grad for p in back.parameters())


def test_separate_adapters_come_back_bit_for_bit(tmp_path: Path) -> None:
    model = micro_model("svp", lora=Lora(rank=4, alpha=8))
    folder = save(model, tmp_path / "m", adapter="separate")
    back = load_pretrained(folder)
    assert back.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in back.state_dict().items())
    torch.testing.assert_close(masks(back), masks(model), rtol=1e-5, atol=1e-6)
    before = weights_digest(folder)  # what names the model counts the adapter
    save_file({"other": torch.ones(1)}, folder / "adapter/adapter_model.safetensors")
    assert (second := weights_digest(folder)) != before
    save_file({"other": torch.ones(1)}, folder / "svp.safetensors")
    assert weights_digest(folder) != second


def test_merged_adapters_give_the_same_masks(tmp_path: Path) -> None:
    model = micro_model("svp", lora=Lora(rank=4, alpha=8))
    back = load_pretrained(save(model, tmp_path / "m"))
    assert not any("lora" in name for name in back.state_dict())
    torch.testing.assert_close(masks(back), masks(model), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        for name, parameter in model.lm.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    assert not torch.allclose(masks(back), masks(model), rtol=1e-4, atol=1e-4)


def test_peft_loads_the_adapter(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import LlamaForCausalLM

    model = micro_model("svp", lora=Lora(rank=4, alpha=8, dropout=0.0))
    folder = save(model, tmp_path / "m", adapter="separate")
    config = micro_config()
    plain = LlamaForCausalLM(config)
    base = {n.replace(".base_layer", ""): t for n, t in model.lm.state_dict().items()}
    plain.load_state_dict({n: t for n, t in base.items() if "lora" not in n})
    theirs = PeftModel.from_pretrained(plain, folder / "adapter")
    ids = torch.arange(10)[None]
    ours = model.lm.eval()(ids).logits
    torch.testing.assert_close(theirs(ids).logits, ours, rtol=1e-5, atol=1e-6)


def test_trained_rows_are_folded_in(tmp_path: Path) -> None:
    model = micro_model("svp")
    set_trainable(model, STAGE1, new_rows=[SEG])
    with torch.no_grad():
        model.lm.model.embed_tokens.rows.fill_(0.5)
    back = load_pretrained(save(model, tmp_path / "m"))
    assert bool((back.lm.model.embed_tokens.weight[SEG] == 0.5).all())


def test_the_language_model_is_stored_in_its_frozen_dtype(tmp_path: Path) -> None:
    model = micro_model("svp")
    model.lm.bfloat16()
    set_trainable(model, STAGE1)
    back = load_pretrained(save(model, tmp_path / "m"))
    assert {p.dtype for p in back.lm.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in back.projector.parameters()} == {torch.float32}


class FullDisk:
    """A tokenizer that cannot be written."""

    def save_pretrained(self, folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_the_folder_is_complete_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vocab = load_vocabulary(TINY)
    folder = save(micro_model("svp"), tmp_path / "m", tokenizer=vocab.tokenizer)
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    again = load_vocabulary(folder)
    assert (again.seg, again.im_end, again.size) == (vocab.seg, vocab.im_end, vocab.size)
    assert again.encode("the red disc") == vocab.encode("the red disc")
    with pytest.raises(CacheError, match="No space left"):
        save(micro_model("svp"), tmp_path / "n", tokenizer=FullDisk())
    with (
        monkeypatch.context() as patch,
        pytest.raises(CacheError, match="n: No space left.*free some space"),
    ):
        full = Mock(side_effect=SafetensorError("I/O error: full (os error 28)"))
        patch.setattr(pretrained, "save_file", full)
        save(micro_model("svp"), tmp_path / "n")
    assert {path.name for path in tmp_path.iterdir()} == {"m"}
    with pytest.raises(ConfigError, match="exists already"):
        save(micro_model("svp"), folder)


def test_no_lora_to_keep_separate(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no LoRA"):
        save(micro_model("svp"), tmp_path / "m", adapter="separate")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("schema_version", 1, "schema 1: this svp reads svp-ris, schema 2"),
        ("model_type", "llama", "model_type llama"),
        ("mask_state", "after", "mask_state"),
        ("auto_map", {"AutoModel": "evil.Model"}, "auto_map"),
        ("projector", {"name": "svp"}, "projector.in_dim"),
    ],
)
def test_another_config_is_refused(tmp_path: Path, field: str, value: object, message: str) -> None:
    folder = save(micro_model("svp"), tmp_path / "m")
    config = json.loads((folder / "svp.json").read_text())
    (folder / "svp.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(WeightsError, match=message):
        load_pretrained(folder)


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    folder = save(micro_model("svp"), tmp_path / "m")
    config = json.loads((folder / "svp.json").read_text())
    config["language"]["layers"] = 3
    (folder / "svp.json").write_text(json.dumps(config))
    with pytest.raises(
        WeightsError, match=r"model\.safetensors: 9 tensors differ.*model\.layers\.2"
    ):
        load_pretrained(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(MissingError, match=r"model\.safetensors"):
        load_pretrained(folder)


def test_the_card_says_what_it_was_given(tmp_path: Path) -> None:
    card = Card(
        "my <script>model</script>",
        training={"data": "RefCOCO train"},
        metrics={"refcoco val gIoU (full)": "0.612"},
        scores={"refcoco val": {"gIoU": 61.2}},
    )
    text = (save(micro_model("svp"), tmp_path / "m", card=card) / "README.md").read_text()
    header = yaml.safe_load(text.split("---\n")[1])
    ((result,),) = (one["results"] for one in header["model-index"])
    assert result["dataset"] == {"name": "refcoco val", "type": "refcoco"}
    assert result["metrics"] == [{"type": "gIoU", "value": 61.2}]
    assert (header["license"], header["library_name"]) == ("other", "svp")
    assert "- data: RefCOCO train" in text
    assert "gIoU (full): 0.612" in text
    assert "<script>" not in text


def test_peft_config_names_the_adapted_linears() -> None:
    from svp.model.pretrained.peft_adapters import lora_of

    spec = lora_of(micro_model("svp", lora=Lora(rank=4, alpha=8, targets=("q_proj", "v_proj"))).lm)
    assert peft_config(spec)["target_modules"] == ["q_proj", "v_proj"]
    assert (spec.rank, spec.alpha, spec.dropout) == (4, 8, 0.05)
