"""What trains: the paper's sums at full size, exact gradients per stage, refused setups."""

from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from support.micro_ris import SEG, VOCAB, micro_batch, micro_model
from support.stages import STAGE1, STAGE2
from svp.model.conversion.llama_shape import LlamaShape
from svp.model.language.adapters import Lora, add_lora
from svp.model.language.trainable_tokens import fold_rows, train_rows
from svp.model.losses import Weights
from svp.model.mask_head import MaskHead
from svp.model.projectors import build_projector
from svp.model.ris import RisModel
from svp.model.trainable import (
    PARTS,
    parameters_by_part,
    require_trained_seg,
    set_trainable,
    trainable_table,
)
from svp.pipeline.errors import ConfigError
from svp.pipeline.sam.build import build_sam


def paper_model(targets: tuple[str, ...] | None = None) -> RisModel:
    """The paper's model on the meta device, with the parameter counts of its recipe."""
    sam: Any = build_sam("vit_h")
    with torch.device("meta"):
        lm: Any = LlamaForCausalLM(LlamaShape().config())
        projector = build_projector("svp", in_dim=1024, llm_dim=4096)
        model = RisModel(lm, projector, MaskHead(sam.prompt_encoder, sam.mask_decoder))
        if targets is not None:
            add_lora(lm, Lora(targets=targets) if targets else Lora())
    return model


def test_stage_1_sums_to_the_paper() -> None:
    table = set_trainable(paper_model(), STAGE1)
    sizes = {row.part: row.trainable for row in table.rows}
    assert sizes == {
        "projector": 52_373_376,
        "embedding": 131_100_672,
        "lm_head": 131_100_672,
        "to_prompt": 17_830_144,
        "mask_decoder": 4_058_340,
        "lm": 0,
        "prompt_encoder": 0,
    }
    assert table.trainable == 336_463_204  # 336.5M
    assert sum(table.projector.values()) == 52_373_376
    assert table.projector["mlp"] == 10_491_904


@pytest.mark.parametrize(
    ("targets", "total"),
    [
        ((), 416.4),  # all seven linears; 416.0 with "52M" for the projector
        (("q_proj", "v_proj"), 353.2),
        (("q_proj", "k_proj", "v_proj", "o_proj"), 370.0),
    ],
)
def test_stage_2_sums_to_the_paper(targets: tuple[str, ...], total: float) -> None:
    table = set_trainable(paper_model(targets), STAGE2)
    assert table.trainable / 1e6 == pytest.approx(total, abs=0.06)
    if not targets:
        assert {row.part: row.trainable for row in table.rows}["lora"] == 79_953_920


def test_every_parameter_has_one_part() -> None:
    model = micro_model("svp", lora=Lora(rank=2))
    owned = parameters_by_part(model)
    assert set(owned) == set(PARTS)
    ids = [id(parameter) for part in owned.values() for parameter in part]
    assert sorted(ids) == sorted(id(parameter) for parameter in model.parameters())


@pytest.mark.parametrize("parts", [STAGE1, STAGE2])
def test_exactly_the_named_parts_get_a_gradient(parts: tuple[str, ...]) -> None:
    model = micro_model("svp", lora=Lora(rank=2, dropout=0.0))
    set_trainable(model, parts)
    model(micro_batch()).total(Weights()).backward()
    reached = {
        part
        for part, parameters in parameters_by_part(model).items()
        if any(p.grad is not None and bool(p.grad.any()) for p in parameters)
    }
    assert reached == set(parts)


def test_trained_parts_become_float32_and_frozen_ones_stay() -> None:
    model = micro_model()
    model.lm.bfloat16()
    table = set_trainable(model, STAGE1)
    assert {row.part: row.dtype for row in table.rows if row.part != "lora"} == {
        "projector": "float32",
        "embedding": "float32",
        "lm_head": "float32",
        "to_prompt": "float32",
        "mask_decoder": "float32",
        "lm": "bfloat16",
        "prompt_encoder": "float32",
    }


def test_only_new_rows_train_and_are_folded_back() -> None:
    model, batch = micro_model(), micro_batch()
    before = model.lm.model.embed_tokens.weight.detach().clone()
    expected = model(batch).total(Weights())
    table = set_trainable(model, STAGE1, new_rows=[SEG, 5])
    assert {row.part: row.trainable for row in table.rows}["embedding"] == 2 * 32
    loss = model(batch).total(Weights())
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    loss.backward()
    optimizer.step()
    after = model(batch).total(Weights())
    fold_rows(model.lm)
    torch.testing.assert_close(model(batch).total(Weights()), after, rtol=1e-6, atol=0)
    changed = (model.lm.model.embed_tokens.weight != before).any(1).nonzero().flatten().tolist()
    assert changed == [SEG]  # token 5 is not in the batch
    assert model.lm.lm_head.weight.shape == (VOCAB, 32)


def test_new_rows_have_the_gradient_of_the_full_matrices() -> None:
    full, rows = micro_model(), micro_model()
    set_trainable(full, STAGE1)
    set_trainable(rows, STAGE1, new_rows=[SEG])
    for model in (full, rows):
        model(micro_batch()).total(Weights()).backward()
    for whole, part in (
        (full.lm.model.embed_tokens.weight, rows.lm.model.embed_tokens.rows),
        (full.lm.lm_head.weight, rows.lm.lm_head.rows),
    ):
        torch.testing.assert_close(part.grad[0], whole.grad[SEG])


@pytest.mark.parametrize("ids", [[VOCAB], [-1], [4, 4], []])
def test_rows_outside_the_vocabulary_are_refused(ids: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"need rising ids in 0\.\.39"):
        train_rows(micro_model().lm, ids)


def test_refused_stages() -> None:
    model = micro_model()
    with pytest.raises(ConfigError, match="allowed are projector"):
        set_trainable(model, ["clip"])
    with pytest.raises(ConfigError, match="LoRA not added"):
        set_trainable(model, STAGE2)
    with pytest.raises(ConfigError, match="embedding and head must be among"):
        set_trainable(model, ["projector"], new_rows=[SEG])


@pytest.mark.parametrize("left_out", ["embedding", "lm_head"])
def test_a_frozen_untrained_seg_row_is_refused(left_out: str) -> None:
    model = micro_model()
    parts = [part for part in STAGE1 if part != left_out]
    require_trained_seg(model, parts, SEG, fresh=False)
    require_trained_seg(model, STAGE1, SEG, fresh=True)
    with pytest.raises(ConfigError, match="never trained"):
        require_trained_seg(model, parts, SEG, fresh=True)
    weight = model.lm.model.embed_tokens if left_out == "embedding" else model.lm.lm_head
    with torch.no_grad():
        weight.weight[SEG] = 0
    with pytest.raises(ConfigError, match=rf"row {SEG} was never trained"):
        require_trained_seg(model, parts, SEG, fresh=False)


def test_the_table_prints_its_sum() -> None:
    model = micro_model("svp")
    set_trainable(model, STAGE1)
    lines = trainable_table(model).lines()
    total = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert lines[-2].split()[-1] == f"{total:,}"
    assert lines[-1].startswith("projector: sspe ")
