"""Budgets by the question's words: which superpixels a dialogue keeps, and what the model is then shown."""

from dataclasses import replace

import pytest
import torch

from support.micro_ris import CHANNELS, micro_batch, micro_model
from svp.model.inference.ask import asked
from svp.model.projectors.token_answer import question_words
from svp.model.ris import RisModel


@pytest.fixture(scope="module")
def model() -> RisModel:
    return micro_model("svp", seed=3, token_answers=True).eval()


def test_a_question_is_the_text_before_its_answer(model: RisModel) -> None:
    """Neither the answers themselves nor the question of another turn, also of one without a mask."""
    batch = micro_batch((2, 1))
    text = model.embedded(batch.ids)
    first, second, other = (seg - 1 for seg in batch.seg_col.tolist())  # where the answers begin
    slot = int(batch.slot[0])
    words = question_words(batch, text)
    torch.testing.assert_close(words[0], text[0, slot + 1 : first].mean(0))
    torch.testing.assert_close(words[1], text[0, first + 4 : second].mean(0))
    torch.testing.assert_close(words[2], text[1, slot + 1 : other].mean(0))
    later = replace(batch, seg_row=batch.seg_row[1:], seg_col=batch.seg_col[1:])
    torch.testing.assert_close(question_words(later, text), words[1:])


def test_what_is_kept_and_the_rest(model: RisModel) -> None:
    """The best by score, in their order, then the union of the others; nothing of padding."""
    batch = micro_batch((1, 1))
    found, kept = asked(model, batch, 2)
    visual, whole = found.visual, batch.visual
    assert whole.cover is not None and whole.masks is not None and whole.valid is not None
    assert visual.cover is not None and visual.masks is not None and visual.valid is not None
    tokens, _ = model.tokens(batch)
    head = model.projector.answers
    assert head is not None
    words = question_words(batch, model.embedded(batch.ids))
    scores = head(words, tokens, batch.seg_row, words=True)
    assert visual.valid.tolist() == [[True] * 3] * 2
    for image, count in enumerate((4, 3)):
        best = scores[image, :count].topk(2).indices.sort().values
        assert kept[image].nonzero().flatten().tolist() == best.tolist()
        rest = [k for k in range(count) if k not in best.tolist()]
        assert torch.equal(visual.cover[image, :2], whole.cover[image, best])
        union = whole.cover[image, rest].sum(0).clamp(max=1)
        torch.testing.assert_close(visual.cover[image, 2], union)
        assert torch.equal(visual.masks[image, 2], whole.masks[image, rest].amax(0))
    assert [tuple(m.shape) for m in model.predict(found)] == [(1, 20, 32)] * 2


def test_a_budget_of_all_changes_no_answer(model: RisModel) -> None:
    batch = micro_batch((1, 1))
    for found, wanted in zip(
        model.predict(asked(model, batch, 9).batch), model.predict(batch), strict=True
    ):
        torch.testing.assert_close(found, wanted)


def test_dialogues_about_one_image_that_is_given_once(model: RisModel) -> None:
    batch = micro_batch((1, 1))
    once = replace(batch, visual=batch.visual.map(lambda x: x[:1]), sam=batch.sam[:1])
    twice = replace(batch, visual=batch.visual.map(lambda x: x[[0, 0]]), sam=batch.sam[[0, 0]])
    pairs = [asked(model, one, 2) for one in (once, twice)]
    assert torch.equal(pairs[0].kept, pairs[1].kept)
    for a, b in zip(*(model.predict(pair.batch) for pair in pairs), strict=True):
        torch.testing.assert_close(a, b)


def test_means_of_a_thin_cache_are_the_rest_s_by_coverage(model: RisModel) -> None:
    batch = micro_batch((1, 1))
    cover = batch.visual.cover
    assert cover is not None
    means = torch.randn(2, 4, CHANNELS, generator=torch.Generator().manual_seed(1))
    with_means = replace(batch, visual=replace(batch.visual, means=means))
    whole = micro_model("svp", token_answers=True, ssa_variant="none").eval()
    found, kept = asked(whole, with_means, 1)
    assert found.visual.means is not None
    rest = [k for k in range(4) if not kept[0, k]]
    weight = cover[0, rest].sum(1)
    wanted = (weight[:, None] * means[0, rest]).sum(0) / weight.sum()
    torch.testing.assert_close(found.visual.means[0, 1], wanted)
