"""Each family in small, against transformers' own model of the same folder."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from support.families import SMALL, Small, write_family
from support.micro_ris import CHANNELS, micro_batch, micro_head
from svp.model.batch import Batch
from svp.model.inference.attended import visual_attention
from svp.model.inference.generate import generate
from svp.model.inference.shared_prefix import predict_shared, read_prefix
from svp.model.language.adapters import LINEARS, Lora, add_lora
from svp.model.language.families import family_of
from svp.model.language.load import load_lm, read_config
from svp.model.language.trainable_tokens import fold_rows
from svp.model.language.words import add_words
from svp.model.merge import Merged
from svp.model.pretrained import Card, ProjectorSpec, load_pretrained, save_pretrained
from svp.model.projectors import build_projector
from svp.model.ris import RisModel
from svp.model.trainable import set_trainable, trainable_table
from svp.pipeline.errors import ConfigError, WeightsError

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
LORA = Lora(rank=4, alpha=8, dropout=0.0)
SEG = 9  # of `micro_batch`
STAGE1 = ("projector", "embedding", "lm_head", "to_prompt", "mask_decoder")
TEXT = torch.arange(10, 40)[None] * 3  # longer than the window of the families that have one


@pytest.fixture(scope="module", params=SMALL, ids=lambda small: small.name)
def case(request: pytest.FixtureRequest, tmp_path_factory: Any) -> tuple[Small, Path]:
    small: Small = request.param
    return small, write_family(small, tmp_path_factory.mktemp("family") / small.name)


def ris(folder: Path, lora: Lora | None = None) -> RisModel:
    """A random referring-segmentation model around the folder's language model."""
    torch.manual_seed(3)
    lm = load_lm(folder)
    projector = build_projector("mlp", in_dim=CHANNELS, llm_dim=lm.config.hidden_size)
    model = RisModel(lm, projector, micro_head())
    if lora is not None:
        add_lora(lm, lora)
        for name, parameter in lm.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def logits(model: RisModel, ids: Tensor = TEXT) -> Tensor:
    """What `cross_entropy` sees of a text."""
    count = torch.tensor([ids.shape[1]])
    with torch.no_grad():
        states = model.states(Merged(model.embedded(ids), count, count, count))
        return model.scores(states)


def reference(small: Small, folder: Path) -> Any:
    """By transformers, from the same folder."""
    kind: Any = AutoModelForImageTextToText if small.composite else AutoModelForCausalLM
    return kind.from_pretrained(folder, attn_implementation="sdpa").eval()


def plain_lm(folder: Path) -> Any:
    """transformers' language model of an export."""
    made: Any = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    return made.eval()


def test_logits_are_those_of_transformers(case: tuple[Small, Path]) -> None:
    small, folder = case
    model = ris(folder)
    with torch.no_grad():
        want = reference(small, folder)(input_ids=TEXT).logits
    torch.testing.assert_close(logits(model), want, **CLOSE)
    assert want.std() > 0.01
    assert not any(t.is_meta for t in (*model.parameters(), *model.buffers()))


def test_visual_tokens_have_the_scale_of_embedded_text(case: tuple[Small, Path]) -> None:
    """A projector that gives rows of the embedding gives the text's own states."""
    _, folder = case
    model, batch = ris(folder), micro_batch((1,))
    rows = model.lm.get_input_embeddings().weight[20:36]

    class Rows(torch.nn.Module):
        def forward(self, patches: Tensor, grid: Any, **_: Any) -> tuple[Tensor, Tensor]:
            return rows[None], torch.ones(1, len(rows), dtype=torch.bool)

        def places(self, grid: Any) -> None:
            return None

        def num_tokens(self, grid: Any) -> int:
            return len(rows)

    model.projector = Rows()  # type: ignore[assignment]
    merged = model.merged(batch.with_layout())
    slot = int(batch.slot[0])
    text = model.embedded(torch.arange(20, 36)[None])
    torch.testing.assert_close(merged.embeds[:, slot : slot + 16], text, **CLOSE)


def test_a_shared_prefix_gives_the_masks_of_predict(case: tuple[Small, Path]) -> None:
    _, folder = case
    model, batch = ris(folder), one_image()
    with torch.no_grad():
        want = model.predict(repeated(batch))
        got = predict_shared(model, batch)
    for mine, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_attention_is_that_of_transformers_eager(case: tuple[Small, Path]) -> None:
    """Of [SEG]'s state to the visual tokens, with a prefix read before; the kernels stay as they were."""
    _, folder = case
    model, batch = ris(folder), one_image()
    whole = repeated(batch).with_layout()
    with torch.no_grad():
        merged = model.merged(whole)
        before = model.states(merged)
        plain = load_lm(folder)
        plain.set_attn_implementation("eager")
        out = plain.model(inputs_embeds=merged.embeds, use_cache=False, output_attentions=True)
        prefix = read_prefix(model, batch, int(batch.slot[0]) + 2)
    place = merged.index(whole.seg_row, whole.seg_col) - 1
    start = int(batch.slot[0])
    for last in (1, 2):
        mean = torch.stack(out.attentions[-last:]).mean((0, 2))  # (B,queries,keys)
        want = mean[whole.seg_row, place, start : start + prefix.tokens]
        found = visual_attention(model, batch, prefix, last=last)
        torch.testing.assert_close(found, want, **CLOSE)
    assert found.shape == (len(batch.ids), prefix.tokens) and found.std() > 1e-4
    assert (found.sum(1) < 1).all() and not torch.allclose(found[0], found[1], **CLOSE)
    with torch.no_grad():
        assert torch.equal(model.states(merged), before)


def test_generation_is_greedy(case: tuple[Small, Path]) -> None:
    """Against the whole text read anew for each id; with and without a prefix read before."""
    _, folder = case
    model, batch = ris(folder), one_image()
    prompt = replace(batch, labels=torch.full_like(batch.labels, -100))
    want: list[list[int]] = []
    for row in range(len(batch.ids)):
        ids = batch.ids[row : row + 1, : int(batch.lengths[row])]
        said: list[int] = []
        for _ in range(6):
            alone = replace(
                batch, ids=ids, labels=torch.full_like(ids, -100), slot=batch.slot[:1], packed=(), sent_ids=((),),
                lengths=torch.tensor([ids.shape[1]]), seg_row=batch.seg_row[:0], seg_col=batch.seg_col[:0],
                sizes=batch.sizes[:1],
            ).with_layout()  # fmt: skip
            with torch.no_grad():
                last = model.scores(model.states(model.merged(alone))[:, -1]).argmax(1)
            said.append(int(last))
            ids = torch.cat([ids, last[:, None]], 1)
        want.append(said)
    common = int(batch.slot[0]) + 2
    for start in (None, read_prefix(model, batch, common)):
        asked = repeated(prompt) if start is None else prompt
        found = generate(model, asked, seg=-5, eos=-1, max_new_tokens=6, prefix=start)
        assert found.ids == want


def test_lora_is_exported_to_transformers_and_peft(
    case: tuple[Small, Path], tmp_path: Path
) -> None:
    small, folder = case
    model = ris(folder, LORA)
    kept = save(model, tmp_path / "separate", "separate")
    merged = save(model, tmp_path / "merged", "merged")
    want = logits(model)
    assert not torch.allclose(want, logits(ris(folder)), **CLOSE)
    with torch.no_grad():
        theirs: Any = PeftModel.from_pretrained(plain_lm(kept), kept / "adapter")
        torch.testing.assert_close(theirs(TEXT).logits, want, **CLOSE)
        torch.testing.assert_close(plain_lm(merged)(TEXT).logits, want, rtol=1e-4, atol=1e-4)
    for export in (kept, merged):
        torch.testing.assert_close(logits(load_pretrained(export)), want, rtol=1e-4, atol=1e-4)
        assert is_one_matrix(export) == small.tied


def test_trained_rows_of_a_tied_model_are_one(case: tuple[Small, Path], tmp_path: Path) -> None:
    small, folder = case
    model, batch = ris(folder), micro_batch()
    before = logits(model)
    set_trainable(model, STAGE1, new_rows=[SEG, 11])
    torch.testing.assert_close(logits(model), before, **CLOSE)
    rows = [name for name, p in model.lm.named_parameters() if p.requires_grad]
    assert len(rows) == (1 if small.tied else 2)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = model(batch)
    (losses.ce + losses.bce + losses.dice).backward()
    optimizer.step()
    embedding = model.lm.get_input_embeddings()
    trained = embedding.rows.detach().clone()
    with torch.no_grad():
        changed = logits(model, TEXT % 13)
    fold_rows(model.lm)
    torch.testing.assert_close(model.lm.get_input_embeddings().weight[[SEG, 11]], trained)
    torch.testing.assert_close(logits(model, TEXT % 13), changed, **CLOSE)
    export = save(model, tmp_path / "m", "merged")
    torch.testing.assert_close(logits(load_pretrained(export), TEXT % 13), changed, **CLOSE)
    assert is_one_matrix(export) == small.tied


def test_a_step_of_all_that_trains_lowers_the_loss(case: tuple[Small, Path]) -> None:
    small, folder = case
    model, batch = ris(folder, LORA), micro_batch()
    table = set_trainable(model, (*STAGE1, "lora"))
    assert ("lm_head" in {row.part for row in table.rows}) == (not small.tied)
    assert sum(row.parameters for row in table.rows) == sum(p.numel() for p in model.parameters())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    seen = []
    for _ in range(6):
        losses = model(batch)
        total = losses.ce / losses.tokens + losses.bce + losses.dice
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        seen.append(float(total.detach()))
    assert seen[-1] < seen[0]
    if small.tied:
        lm = model.lm
        assert lm.get_input_embeddings().weight is lm.get_output_embeddings().weight


def test_new_words_take_spare_rows_first(case: tuple[Small, Path]) -> None:
    small, folder = case
    lm = load_lm(folder)
    rows, known = lm.config.vocab_size, lm.config.vocab_size - small.spare
    old = lm.get_input_embeddings().weight.detach()[:known].clone()
    add_words(lm, known, known + 3)
    after = lm.get_input_embeddings().weight.detach()
    assert lm.config.vocab_size == len(after) == max(rows, known + 3)
    assert torch.equal(after[:known], old)
    spread = (after[known : known + 3] - old.mean(0)).abs().max()
    assert spread < (1e-6 if small.spare else 1e-2)
    tied = lm.get_output_embeddings().weight is lm.get_input_embeddings().weight
    assert tied == small.tied and len(lm.get_output_embeddings().weight) == len(after)


def test_lora_targets_are_the_familys(case: tuple[Small, Path]) -> None:
    _, folder = case
    lm = load_lm(folder)
    add_lora(lm, Lora(rank=2))
    adapted = {
        n.split(".lora_")[0].rsplit(".", 1)[-1] for n, _ in lm.named_parameters() if "lora_" in n
    }
    linears = family_of(lm).linears
    assert adapted == {linears.get(name, name) for name in LINEARS}
    with pytest.raises(ConfigError, match="no linear of this .* is named qproj; it has .*o_proj"):
        add_lora(load_lm(folder), Lora(targets=("o_proj", "qproj")))


def test_the_table_counts_a_tied_matrix_once(case: tuple[Small, Path]) -> None:
    small, folder = case
    model = ris(folder)
    config, parts = (
        model.lm.config,
        {row.part: row.parameters for row in trainable_table(model).rows},
    )
    size = config.vocab_size * config.hidden_size
    assert parts["embedding"] == size and parts.get("lm_head", 0) == (0 if small.tied else size)


@pytest.mark.parametrize("kind", ["mamba", "qwen3_moe", "gpt_neo", ""])
def test_other_families_are_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(
        WeightsError, match=r"config\.json: model_type .*need.*gemma3.*llama.*qwen3"
    ):
        read_config(tmp_path)


def test_code_of_a_folder_is_not_run(tmp_path: Path) -> None:
    """Phi's folders name code, which is not read; others that do are refused."""
    fields = {"model_type": "qwen3", "auto_map": {"AutoModelForCausalLM": "own.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(WeightsError, match="auto_map.*can make a library run code"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**fields, "model_type": "phi3"}))
    assert not hasattr(read_config(tmp_path), "auto_map")


def one_image() -> Batch:
    """Three dialogues about one image, alike up to the second id after it."""
    batch = micro_batch((1, 1, 1))
    ids = batch.ids.clone()
    ids[:, :4] = ids[0, :4]
    visual, sam = batch.visual.map(lambda x: x[:1]), batch.sam[:1]
    return replace(batch, ids=ids, visual=visual, sam=sam)


def repeated(batch: Batch) -> Batch:
    """`batch` with the image once for each dialogue."""
    rows = len(batch.ids)
    visual = batch.visual.map(lambda x: x.expand(rows, *x.shape[1:]))
    return replace(batch, visual=visual, sam=batch.sam.expand(rows, *batch.sam.shape[1:]))


def save(model: RisModel, folder: Path, adapter: Any) -> Path:
    width = model.lm.config.hidden_size
    spec = ProjectorSpec(name="mlp", in_dim=CHANNELS, llm_dim=width)
    save_pretrained(model, folder, projector=spec, tokenizer=None, card=Card("x"), adapter=adapter)
    return folder


def is_one_matrix(folder: Path) -> bool:
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert "model.embed_tokens.weight" in names
    return "lm_head.weight" not in names
