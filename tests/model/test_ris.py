"""The referring model: indices, independence from padding and order, SAM parity, generation."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from support.stages import STAGE1
from svp.model.batch import IGNORE, Batch
from svp.model.language.adapters import Lora
from svp.model.language.attention import no_cache
from svp.model.losses import Weights
from svp.model.mask_head import MaskHead
from svp.model.ris import RisModel
from svp.model.trainable import set_trainable
from svp.train.trainer.prepare import recompute

Model = Callable[..., RisModel]
Batches = Callable[..., Batch]


def one(batch: Batch, row: int) -> Batch:
    """Image `row` of a batch alone, without its padding."""
    n = int(batch.lengths[row])
    mine = batch.seg_row == row
    visual = batch.visual.map(lambda x: x[row : row + 1])
    assert batch.packed is not None
    return replace(
        batch,
        visual=visual,
        ids=batch.ids[row : row + 1, :n],
        lengths=batch.lengths[row : row + 1],
        labels=batch.labels[row : row + 1, :n],
        slot=batch.slot[row : row + 1],
        seg_row=batch.seg_row[mine] * 0,
        seg_col=batch.seg_col[mine],
        sam=batch.sam[row : row + 1],
        sizes=(batch.sizes[row],),
        packed=(batch.packed[row],),
        sent_ids=(batch.sent_ids[row],),
    )


@pytest.mark.parametrize("prompt", ["projected", "pointed"])
def test_a_batch_gives_what_its_images_give_alone(
    micro: Model, batch: Batches, prompt: str
) -> None:
    model, both = micro("svp").eval(), batch((3, 1), sizes=((20, 32), (31, 17)))
    model.mask_prompt = prompt  # type: ignore[assignment]
    together = model.predict(both)
    assert [x.shape for x in together] == [(3, 20, 32), (1, 31, 17)]
    for row, masks in enumerate(together):
        (alone,) = model.predict(one(both, row))
        torch.testing.assert_close(masks, alone, rtol=1e-4, atol=1e-5)


def test_a_state_points_to_the_token_that_it_scores_most(micro: Model, batch: Batches) -> None:
    """Then the mask is that token's, whatever the state is otherwise; padding is never meant."""
    model, both = micro("svp").eval(), batch((1, 1)).with_layout()
    model.mask_prompt = "pointed"
    tokens, valid = model.tokens(both)
    assert not bool(valid.all())
    masks = both.layout.masks
    meant = torch.stack([tokens[0, 1], tokens[1, 0]])
    apart = meant / meant.square().sum(1, keepdim=True).sqrt()
    pointed = model.masks_of(1e4 * apart, masks, both)
    model.mask_prompt = "projected"
    wanted = model.masks_of(model.lm.model.norm(meant), masks, both)
    torch.testing.assert_close(pointed, wanted, rtol=1e-4, atol=1e-5)


def test_with_token_answers_the_prompt_is_that_of_the_tokens_that_are_meant(
    micro: Model, batch: Batches
) -> None:
    model, both = micro("svp", token_answers=True).eval(), batch((1, 1)).with_layout()
    answers = model.projector.answers
    assert answers is not None
    tokens, _ = model.tokens(both)
    torch.nn.init.zeros_(answers.key.weight)
    torch.nn.init.zeros_(answers.state.bias)
    chosen = tokens[0, 2] - tokens[0].mean(0)  # all queries ask for what lies in this direction
    chosen = torch.nn.functional.layer_norm(chosen, chosen.shape)
    with torch.no_grad():
        answers.state.weight.zero_()
        answers.state.bias[0] = 1e4
        answers.key.weight[0] = chosen
    masks, states = both.layout.masks, torch.randn(2, tokens.shape[2])
    model.mask_prompt = "pointed"
    pointed = model.masks_of(states, masks, both)
    keyed = torch.nn.functional.layer_norm(tokens, chosen.shape) @ chosen
    keyed[~model.tokens(both)[1]] = -torch.inf
    meant = tokens[torch.arange(2), keyed.argmax(1)]
    model.mask_prompt = "projected"
    wanted = model.masks_of(model.lm.model.norm(meant), masks, both)
    torch.testing.assert_close(pointed, wanted, rtol=1e-4, atol=1e-5)


def test_losses_add_up_over_images(micro: Model, batch: Batches) -> None:
    model, both = micro().eval(), batch((2, 1), sizes=((20, 32), (31, 17)))
    assert model(both).click is None
    model.learns_clicks = True
    whole, parts = model(both), [model(one(both, row)) for row in (0, 1)]
    assert whole.tokens == sum(p.tokens for p in parts) == 12
    assert whole.masks == 3
    for name in ("ce", "bce", "dice", "click"):
        total = sum(float(getattr(p, name).detach()) for p in parts)
        assert float(getattr(whole, name).detach()) == pytest.approx(total, rel=1e-5)


def test_cross_entropy_is_that_of_transformers(micro: Model, batch: Batches) -> None:
    """The head sees supervised positions only; the loss is as if it saw all of them."""
    model, (only,) = micro().eval(), [one(batch((2,)), 0)]
    merged = model.merged(only)
    labels = torch.full(merged.embeds.shape[:2], IGNORE)
    row, col = (only.labels != IGNORE).nonzero(as_tuple=True)
    labels[row, merged.index(row, col)] = only.labels[row, col]
    wanted = model.lm(inputs_embeds=merged.embeds, labels=labels).loss
    got = model(only)
    assert float((got.ce / got.tokens).detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)


def half(micro: Model, lora: Lora | None = None) -> RisModel:
    """Layers in bfloat16, embedding and head trained in float32, as a run of the paper's size."""
    model = micro(lora=lora)
    model.lm.to(torch.bfloat16)
    set_trainable(model, (*STAGE1, "lora") if lora else STAGE1)
    return model


def test_hidden_states_have_the_dtype_of_the_layers(micro: Model, batch: Batches) -> None:
    model, seen = half(micro), []
    assert model.lm.get_input_embeddings().weight.dtype == torch.float32
    for layer in model.lm.model.layers:
        layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        model(batch((2, 1))).total(Weights()).backward()
    assert seen == 2 * [torch.bfloat16]
    grad = model.lm.get_input_embeddings().weight.grad
    assert grad.dtype == torch.float32 and float(grad.abs().sum()) > 0


def test_adapters_give_the_same_without_peft_s_cast_of_their_input(
    micro: Model, batch: Batches
) -> None:
    """Values and gradients bit for bit under autocast, whose products are in bfloat16 anyway; of layers
    as transformers calls them.
    """
    model, found = half(micro, Lora(rank=4, dropout=0.0)), []
    for layer in model.lm.model.layers:
        layer.__class__ = LlamaDecoderLayer
    linears = [module for module in model.modules() if hasattr(module, "lora_A")]
    assert len(linears) == 2 * 7
    assert not any(linear.cast_input_dtype_enabled for linear in linears)
    for cast in (False, True):
        for linear in linears:
            linear.cast_input_dtype_enabled = cast
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            states = model.states(model.merged(batch((2, 1))))
            states.float().square().mean().backward()
        grads = [p.grad for n, p in model.named_parameters() if "lora_" in n]
        found.append([states, *grads])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert all(float(x.detach().abs().sum()) > 0 for x in found[0])


def test_states_without_a_cache_are_those_of_transformers(micro: Model, batch: Batches) -> None:
    """Bit for bit: only the question whether texts are packed in a row is left out."""
    model = micro()
    merged = model.merged(batch((2, 1)))
    wanted = model.lm.model(inputs_embeds=merged.embeds, use_cache=False).last_hidden_state
    assert torch.equal(model.states(merged), wanted)
    assert no_cache(model.lm) is not None
    recompute(model)
    assert no_cache(model.lm) is None
    assert torch.equal(model.states(merged), wanted)
    assert no_cache(model.eval().lm) is not None


@pytest.mark.parametrize(("state", "seen"), [("predicting", False), ("at_seg", True)])
def test_which_state_prompts_the_mask(micro: Model, batch: Batches, state: str, seen: bool) -> None:
    """Only `at_seg` can see what stands at [SEG]; neither sees what follows."""
    model, first = micro().eval(), batch((1,))
    model.mask_state = state  # type: ignore[assignment]
    at = int(first.seg_col[0])
    for offset, matters in ((0, seen), (1, False), (-1, True)):
        ids = first.ids.clone()
        ids[0, at + offset] = 33
        changed = not torch.equal(
            model.predict(replace(first, ids=ids))[0], model.predict(first)[0]
        )
        assert changed == matters


def test_gradients_reach_every_trained_part(micro: Model, batch: Batches) -> None:
    model = micro().train()
    model(batch((2, 1))).total(Weights()).backward()
    silent = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
    unused = ("mask_head.decoder.iou_", "mask_head.decoder.output_hypernetworks_mlps.")
    silent = {name for name in silent if not name.startswith(unused)}
    # The bias of keys that are image tokens or meet them: it does not change a softmax.
    assert all("attn_" in name and name.endswith("k_proj.bias") for name in silent)
    assert not any(p.requires_grad for p in model.mask_head.prompt_encoder.parameters())
    assert isinstance(model.mask_head, MaskHead)


@pytest.mark.gpu
@pytest.mark.parametrize("projector", ["mlp", "svp"])
def test_a_gpu_gives_what_the_cpu_gives(micro: Model, batch: Batches, projector: str) -> None:
    """Losses, gradients and masks in float32; losses in bfloat16 within its rounding."""
    both = batch((2, 1), sizes=((20, 32), (31, 17)))
    found = {}
    for device in ("cpu", "cuda"):
        model, moved = micro(projector).to(device), both.to(device, torch.float32)
        losses = model(moved).total(Weights(), tokens=12, masks=3)
        losses.backward()
        norms = {
            name: float(p.grad.norm()) for name, p in model.named_parameters() if p.grad is not None
        }
        found[device] = float(losses.detach()), norms, [m.cpu() for m in model.predict(moved)]
    assert found["cuda"][0] == pytest.approx(found["cpu"][0], rel=1e-5)
    assert found["cuda"][1] == pytest.approx(found["cpu"][1], rel=1e-3, abs=1e-6)
    for ours, theirs in zip(found["cuda"][2], found["cpu"][2], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    with torch.autocast("cuda", torch.bfloat16):
        half = model(moved).total(Weights(), tokens=12, masks=3)
    assert float(half.detach()) == pytest.approx(found["cpu"][0], rel=0.02)


def test_a_pointed_model_reads_its_tokens_once(micro: Model, batch: Batches) -> None:
    """In training, with or without masks: ranks whose batches have none call as many modules."""
    model = micro("svp", token_answers=True)
    model.mask_prompt, model.learns_clicks = "pointed", True
    called: list[str] = []
    for name in ("projector", "to_prompt", "projector.answers"):
        module = model.get_submodule(name)
        module.register_forward_pre_hook(lambda _, args, name=name: called.append(name))
    for turns in ((2, 1), (0, 0)):
        called.clear()
        losses = model(batch(turns))
        assert losses.click is not None and losses.answer is not None
        # The answers: for the prompts, then for the loss of both queries.
        assert called == ["projector", "to_prompt", *3 * ["projector.answers"]]
