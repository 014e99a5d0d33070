"""Tokens that keep their patches' positions: by hand, in training, from a shared start, generated."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from svp.model.batch import IGNORE, Batch
from svp.model.inference.generate import generate
from svp.model.inference.shared_prefix import predict_shared
from svp.model.projectors import build_projector
from svp.model.ris import RisModel

Model = Callable[..., RisModel]
Batches = Callable[..., Batch]


def thinned(micro: Model, tokens: int = 5) -> RisModel:
    model = micro(seed=3).eval()
    mlp = model.projector.state_dict()
    model.projector = build_projector("payn", in_dim=24, llm_dim=32, tokens=tokens).eval()
    model.projector.load_state_dict(mlp)
    return model


def by_hand(model: RisModel, batch: Batch, row: int) -> tuple[Tensor, Tensor]:
    """Final states of one image without padding, and the positions they were computed at."""
    places = model.projector.places((4, 4))
    assert places is not None
    slot, length = int(batch.slot[row]), int(batch.lengths[row])
    merged = model.merged(batch)
    positions = torch.tensor(
        [*range(slot), *(slot + p for p in places), *range(slot + 16, length - 1 + 16)]
    )
    embeds = merged.embeds[row : row + 1, : len(positions)]
    causal = torch.ones(len(positions), len(positions), dtype=torch.bool).tril()[None, None]
    out = model.lm.model(
        inputs_embeds=embeds, position_ids=positions[None], attention_mask=causal, use_cache=False
    )
    return out.last_hidden_state[0], positions


@torch.no_grad()
def test_the_language_model_sees_the_places_of_the_patches(micro: Model, batch: Batches) -> None:
    model, given = thinned(micro), batch((2, 1))
    merged = model.merged(given)
    states = model.states(merged)
    assert merged.positions is not None
    for row in range(2):
        want, positions = by_hand(model, given, row)
        assert merged.positions[row, : len(positions)].tolist() == positions.tolist()
        torch.testing.assert_close(states[row, : len(want)], want, rtol=1e-4, atol=1e-5)
    close = replace(merged, positions=None)
    assert (model.states(close) - states).abs().max() > 1e-3, "positions matter"


@torch.no_grad()
def test_all_patches_are_where_an_mlp_has_them(micro: Model, batch: Batches) -> None:
    given = batch((2, 1))
    want = micro(seed=3).eval().predict(given)
    torch.testing.assert_close(thinned(micro, 16).predict(given), want, rtol=1e-4, atol=1e-4)


def test_recomputed_layers_see_the_same(micro: Model, batch: Batches) -> None:
    """Under gradient checkpointing there is no cache, and a gap must not start another text."""
    model, given = thinned(micro), batch((1,))
    want = model.states(model.merged(given))
    model.train()
    model.lm.gradient_checkpointing_enable({"use_reentrant": False})
    torch.testing.assert_close(model.states(model.merged(given)), want, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_shared_start_gives_the_same_masks(micro: Model, batch: Batches) -> None:
    model, given = thinned(micro), batch((1, 1, 1))
    ids = given.ids[:1].repeat(3, 1)
    ids[:, 5] = torch.tensor([20, 21, 22])
    alike = {name: getattr(given, name)[:1].repeat(3) for name in ("lengths", "seg_col", "slot")}
    one = given.visual.map(lambda x: x[:1])
    shared = predict_shared(model, replace(given, visual=one, sam=given.sam[:1], ids=ids, **alike))
    each = given.visual.map(lambda x: x[:1].repeat(3, *[1] * (x.ndim - 1)))
    sam = given.sam[:1].repeat(3, 1, 1, 1)
    want = model.predict(replace(given, visual=each, sam=sam, ids=ids, **alike))
    torch.testing.assert_close(shared, want, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("drafted", [False, True])
def test_generated_ids_are_those_of_the_whole_sequence(
    micro: Model, batch: Batches, drafted: bool
) -> None:
    model, given = thinned(micro), batch((1, 1))
    nothing = torch.zeros(0, dtype=torch.int64)
    prompts = replace(
        given, ids=given.ids[:, :6], lengths=torch.tensor([6, 5]),
        labels=torch.full((2, 6), IGNORE), seg_row=nothing, seg_col=nothing, packed=None,
        sent_ids=((), ()),
    )  # fmt: skip
    wanted = []
    for row in range(2):
        alone = replace(
            prompts, visual=prompts.visual.map(lambda x, k=row: x[k : k + 1]),
            ids=prompts.ids[row : row + 1, : 6 - row], lengths=prompts.lengths[row : row + 1],
            labels=prompts.labels[row : row + 1, : 6 - row], slot=prompts.slot[:1],
            sam=prompts.sam[:1], sizes=prompts.sizes[:1], sent_ids=((),),
        )  # fmt: skip
        said: list[int] = []
        for _ in range(5):
            states, _ = by_hand(model, alone, 0)
            said.append(int(model.lm.lm_head(states[-1]).argmax()))
            ids = torch.cat([alone.ids, torch.tensor([said[-1:]])], 1)
            alone = replace(
                alone, ids=ids, lengths=alone.lengths + 1, labels=torch.full_like(ids, IGNORE)
            )
        wanted.append(said)
    draft = wanted[0][:2] if drafted else ()
    found = generate(model, prompts, seg=-5, eos=-1, max_new_tokens=5, draft=draft)
    assert found.ids == wanted
