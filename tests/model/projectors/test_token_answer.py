"""Token answers: what is learned, that the split of a batch does not matter, and masks as unions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from support import eval_world
from support.micro_ris import GRID, WIDTH, micro_batch, micro_model
from svp.model.batch import Batch, Visual
from svp.model.inference.shared_prefix import reply_shared
from svp.model.losses import Weights
from svp.model.projectors import PROJECTORS, MaskInput, build_projector
from svp.model.projectors.token_answer import TokenAnswer, answer_loss, shares
from svp.pipeline.masks.rle import decode, encode
from svp.train.data.collate import CachedVisuals
from svp.train.evaluation.evaluate import Settings, evaluate, to_batch
from svp.train.evaluation.protocols import Example, plan
from svp.train.evaluation.unions import union_logits


def test_the_share_of_a_superpixel_within_a_target() -> None:
    """Also of a photograph that is smaller than the batch's largest."""
    batch = micro_batch((1, 1), ((4, 6), (8, 12)))
    masks = torch.zeros(2, 4, 2, 2, dtype=torch.uint8)
    masks[:, 0, 0], masks[:, 1] = 1, 1  # the upper half, all, nothing
    targets = torch.zeros(2, 8, 12, dtype=torch.bool)
    targets[0, :2, :3] = targets[1, :4, :6] = True  # the upper left cell of each
    assert shares(batch, masks, targets).tolist() == [[0.5, 0.25, 0, 0]] * 2


@pytest.mark.parametrize(("name", "options"), [
    ("mlp", {}), ("pixel_shuffle", {"r": 2}), ("tome", {"tokens": 6}), ("divprune", {"tokens": 6}),
    ("qformer", {"tokens": 4, "hidden": 8, "layers": 1, "heads": 2, "ffn": 8}),
    ("divt", {"grid": GRID, "embed_dim": 8, "heads": 2}),
])  # fmt: skip
def test_any_projector_learns_which_tokens_are_meant(name: str, options: dict[str, int]) -> None:
    model, batch = micro_model(name, token_answers=True, **options), micro_batch((2, 1))
    losses = model(batch)
    assert losses.answer is not None and losses.answer.item() > 0
    losses.answer.backward()
    assert (
        model.projector.answers is not None and model.projector.answers.key.weight.grad is not None
    )
    assert model.projector.answers.key.weight.grad.abs().sum() > 0
    tokens, valid = model.tokens(batch)
    pieces = model._pieces(batch.visual, tokens)
    assert pieces.shape == (*valid.shape, *GRID) and not pieces[~valid].any()
    kept = pieces.sum(1)  # every patch is in one piece, or its token is left out
    assert set(kept.unique().tolist()) == ({0, 1} if name == "divprune" else {1})


@pytest.mark.parametrize("name", [name for name in PROJECTORS if name != "fusion"])
def test_every_token_of_every_projector_has_a_piece_of_the_image(name: str) -> None:
    torch.manual_seed(0)
    fewer = {"side": 4} if name == "mqt" else {}  # as many as patches at most
    module = build_projector(
        name, in_dim=32, llm_dim=64, grid=(8, 8), token_answers=True, **fewer
    ).eval()
    cover, small = torch.rand(2, 3, 64).softmax(1), torch.ones(2, 3, 8, 8, dtype=torch.uint8)
    valid = torch.ones(2, 3, dtype=torch.bool)
    x = Visual(torch.randn(2, 64, 32), (8, 8), cover, small, valid, torch.randn(2, 32),
               torch.randn(2, 64, 128))  # fmt: skip
    tokens, real = module(
        x.patches, x.grid, cls=x.cls, multi=x.multi, masks=MaskInput(cover, small), mask_valid=valid
    )
    pieces = module.pieces_of(x, tokens)
    assert module.answers is not None and pieces.shape == (*tokens.shape[:2], 64)
    assert bool((pieces.sum(2) > 0)[real].all()) and not pieces[~real].any()
    assert pieces.sum(1).max() < 1 + 1e-5


def test_padding_has_no_loss() -> None:
    logits = torch.tensor([[0.0, 9.0], [0.0, 0.0]])
    valid = torch.tensor([[True, False], [True, True]])
    found = answer_loss(logits, torch.full((2, 2), 0.5), valid)
    assert found.item() == pytest.approx(2 * np.log(2))


def test_losses_add_up_over_any_split() -> None:
    model, batch = micro_model("svp", token_answers=True), micro_batch((2, 1, 0))
    whole = model(batch)
    assert whole.answer is not None and whole.masks == 3
    parts = [model(_one_of(batch, image)) for image in range(3)]
    assert sum(p.answer.item() for p in parts) == pytest.approx(whole.answer.item(), rel=1e-5)
    weights = Weights(ce=0, bce=0, dice=0, answer=2.0)
    assert whole.total(weights).item() == pytest.approx(2 * whole.answer.item() / 3)
    whole.total(weights).backward()
    learned = {n for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
    heads = {"state.weight", "words.weight", "key.weight", "bias"}
    assert {f"projector.answers.{name}" for name in heads} <= learned
    assert "projector.mlp.0.weight" in learned and "lm.model.layers.0.mlp.up_proj.weight" in learned
    assert micro_model("svp")(batch).answer is None


def test_without_masks_every_weight_of_the_head_has_a_gradient() -> None:
    """Else processes that have some would wait for this one."""
    model = micro_model("svp", token_answers=True)
    losses = model(micro_batch((0, 0)))
    assert losses.answer is not None and losses.answer.item() == 0
    losses.total(Weights()).backward()
    head = model.projector.answers
    assert head is not None and all(p.grad is not None for p in head.parameters())


def _one_of(batch: Batch, image: int) -> Batch:
    rows, own = batch.seg_row == image, slice(image, image + 1)
    assert batch.packed is not None
    return replace(
        batch,
        visual=batch.visual.map(lambda x: x[own]),
        ids=batch.ids[own], lengths=batch.lengths[own], labels=batch.labels[own],
        slot=batch.slot[own], sam=batch.sam[own], sizes=batch.sizes[own],
        packed=batch.packed[own], sent_ids=batch.sent_ids[own],
        seg_row=torch.zeros_like(batch.seg_row[rows]), seg_col=batch.seg_col[rows],
    )  # fmt: skip


def test_answers_learn_which_superpixels_are_meant() -> None:
    torch.manual_seed(0)
    states, tokens = torch.randn(8, WIDTH), torch.randn(1, 6, WIDTH)
    wanted = (torch.rand(8, 6) > 0.5).float()
    head, owner = TokenAnswer(WIDTH), torch.zeros(8, dtype=torch.int64)
    optimizer, valid = torch.optim.Adam(head.parameters(), 0.02), torch.ones(8, 6).bool()
    for _ in range(60):
        optimizer.zero_grad()
        answer_loss(head(states, tokens, owner), wanted, valid).backward()
        optimizer.step()
    assert torch.equal(head(states, tokens, owner) > 0, wanted.bool())


def test_the_best_superpixel_is_always_meant_and_the_rest_of_a_budget_never() -> None:
    pieces = [encode(np.array([[1, 0, 0]])), encode(np.array([[0, 1, 1]]))]
    found = union_logits(torch.tensor([-3.0, -2.0, 5.0, -torch.inf]), pieces)
    assert (found > 0).tolist() == [[False, True, True]]
    found = union_logits(torch.tensor([2.0, 0.5]), pieces)
    assert found.tolist() == [[2.0, 0.5, 0.5]]
    assert union_logits(torch.tensor([2.0, torch.nan]), pieces).isnan().all()


World = tuple[list[Example], CachedVisuals]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return eval_world.world(tmp_path_factory.mktemp("world"), range(3, 7))


def test_masks_are_unions_of_what_is_meant_and_read_no_embedding(world: World) -> None:
    """In batches of one image and of many alike; the decoder's masks, beside, are as they were."""
    items, visuals = world
    model, words, units = eval_world.model(), eval_world.vocabulary(), plan(items, "full")
    plain = evaluate(model, units, words, visuals, Settings())
    torch.manual_seed(1)
    head = build_projector("svp", in_dim=8, llm_dim=16, token_answers=True, **eval_world.OPTIONS)
    head.load_state_dict(head.state_dict() | model.projector.state_dict())
    model.projector = head.eval()
    assert head.answers is not None
    torch.nn.init.zeros_(head.answers.bias)
    blind = CachedVisuals(visuals.caches, visuals.needs, decoder=False)
    alone = evaluate(model, units, words, blind, Settings(unions=True, decoder=False))
    rows = evaluate(model, units, words, visuals, Settings(unions=True))
    assert [replace_none(row) for row in rows] == alone
    assert [row.decoded for row in rows] == pytest.approx([row.iou for row in plain])
    several = 0
    by_sentence = {row.sent_id: row for row in alone}
    for unit in units:
        row = by_sentence[unit.asked[0].sent_id]
        batch = to_batch([unit], words, blind).to("cpu", torch.float32)
        assert batch.sam.numel() == 0
        with torch.inference_mode():
            scores = model.meant(model.reply(batch), batch)
            torch.testing.assert_close(model.meant(reply_shared(model, batch), batch), scores)
        pieces = visuals.pieces(unit.example.entry, None)
        chosen = (scores[0] > 0) | (scores[0] == scores[0].max())
        union = np.any([decode(pieces[int(k)]) for k in chosen.nonzero()], axis=0)
        assert (decode(row.mask).view(np.bool_) == union).all()
        assert ((union_logits(scores[0], pieces) > 0).numpy() == union).all()
        several += int(chosen.sum()) > 1
    assert several


def replace_none(row):  # type: ignore[no-untyped-def]
    """The row without what the decoder said."""
    return row.model_copy(update={"decoded": None})


def test_questions_that_keep_some_say_how_much_of_the_target_is_in_them(world: World) -> None:
    items, visuals = world
    model, words, units = eval_world.model(), eval_world.vocabulary(), plan(items, "full")
    model.projector.answers = TokenAnswer(16)
    most = max(row.tokens for row in evaluate(model, units, words, visuals, Settings()))
    every = evaluate(model, units, words, visuals, Settings(ask=most))
    assert {row.recall for row in every} == {1.0}
    for unions in (False, True):
        rows = evaluate(model, units, words, visuals, Settings(ask=1, unions=unions))
        assert {row.tokens for row in rows} <= {1, 2}
        assert all(row.recall is not None for row in rows) and len({r.recall for r in rows}) > 1
