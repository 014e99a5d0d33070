"""Greedy generation against the same sequence computed whole, without a cache."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product

import pytest
import torch

from svp.model.batch import IGNORE, Batch, MaskLayout, Visual
from svp.model.inference.generate import generate
from svp.model.inference.shared_prefix import read_prefix
from svp.model.ris import RisModel

Model = Callable[..., RisModel]
Batches = Callable[..., Batch]
PROMPT = (6, 5)  # ids of each image's open prompt; different, so that padding is at work


def opened(batch: Batch, lengths: tuple[int, int] = PROMPT) -> Batch:
    """The batch cut to its prompts."""
    none = torch.zeros(0, dtype=torch.int64)
    return replace(
        batch,
        ids=batch.ids[:, : max(lengths)],
        lengths=torch.tensor(lengths),
        labels=torch.full((2, max(lengths)), IGNORE),
        seg_row=none,
        seg_col=none,
        packed=None,
        sent_ids=((), ()),
    )


def speaking(micro: Model, mask_state: str = "predicting") -> RisModel:
    """A model whose masks depend on the states as much as those of a trained one."""
    model = micro(seed=3).eval()
    model.mask_state = mask_state  # type: ignore[assignment]
    with torch.no_grad():
        for parameter in model.mask_head.parameters():
            parameter.mul_(2)
        model.to_prompt[2].weight.mul_(50)
    return model


def slowly(
    model: RisModel, prompts: Batch, steps: int
) -> tuple[list[list[int]], list[torch.Tensor]]:
    """Greedy ids and final states, each step from the whole sequence of one image."""
    merged, out, states = model.merged(prompts), [], []
    for row in range(2):
        embeds, ids, seen = merged.embeds[row : row + 1, : int(merged.lengths[row])], [], []
        for _ in range(steps):
            last = model.lm.model(inputs_embeds=embeds).last_hidden_state[:, -1]
            ids.append(int(model.lm.lm_head(last).argmax()))
            seen.append(last[0])
            nxt = model.lm.get_input_embeddings()(torch.tensor([[ids[-1]]]))
            embeds = torch.cat([embeds, nxt], 1)
        out.append(ids)
        states.append(torch.stack(seen))
    return out, states


@contextmanager
def passes(model: RisModel) -> Iterator[Callable[[], int]]:
    """Counts the calls of the language model's layers."""
    calls: list[None] = []
    hook = model.lm.model.register_forward_hook(lambda *_: calls.append(None))
    yield lambda: len(calls)
    hook.remove()


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("lengths", [PROMPT, (5, 5)])
@pytest.mark.parametrize("mask_state", ["predicting", "at_seg"])
def test_cached_generation_equals_the_whole_sequence(
    micro: Model, batch: Batches, mask_state: str, lengths: tuple[int, int], cut: bool
) -> None:
    """Also where [SEG] is the last id that may be said."""
    model, prompts = speaking(micro, mask_state), opened(batch((1, 1)), lengths)
    with torch.no_grad():
        ids, states = slowly(model, prompts, 9)
    seg = ids[0][2]  # whatever image 0 says third plays [SEG]
    most = ids[0].index(seg) + 1 if cut else 8
    got = generate(model, prompts, seg=seg, eos=-1, max_new_tokens=most)
    assert got.ids == [said[:most] for said in ids]
    assert got.seg.tolist() == [seg in said for said in got.ids]
    first = ids[0].index(seg) + (mask_state == "at_seg")
    with torch.no_grad():
        (mask,) = model.masks_of(states[0][first : first + 1], MaskLayout.of(prompts, [0]), prompts)
    torch.testing.assert_close(got.masks[0][0], mask, rtol=1e-4, atol=1e-4)


def test_an_answer_ends_at_its_end_and_without_seg_there_is_no_mask(
    micro: Model, batch: Batches
) -> None:
    model, prompts = micro(seed=3).eval(), opened(batch((1, 1)))
    with torch.no_grad():
        ids, _ = slowly(model, prompts, 4)
    got = generate(model, prompts, seg=-5, eos=ids[0][1], max_new_tokens=4)
    assert got.ids[0] == ids[0][: ids[0].index(ids[0][1]) + 1]
    assert not bool(got.seg.any())
    assert [tuple(x.shape) for x in got.masks] == [(0, 20, 32), (0, 20, 32)]


@pytest.mark.parametrize("mask_state", ["predicting", "at_seg"])
def test_an_answer_that_ends_at_its_seg_has_its_mask(
    micro: Model, batch: Batches, mask_state: str
) -> None:
    """The first answer ends, with [SEG] before its end, while the second one goes on."""
    model, prompts = speaking(micro, mask_state), opened(batch((1, 1)))
    whole = generate(model, prompts, seg=-5, eos=-1, max_new_tokens=8)
    seg, eos = whole.ids[0][:2]
    assert seg != eos
    long = generate(model, prompts, seg=seg, eos=-1, max_new_tokens=8)
    got = generate(model, prompts, seg=seg, eos=eos, max_new_tokens=8)
    assert got.ids[0] == [seg, eos] and got.seg[0]
    torch.testing.assert_close(got.masks[0], long.masks[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mask_state", ["predicting", "at_seg"])
@pytest.mark.parametrize("most", [1, 2, 4, 6, 8])
@pytest.mark.parametrize("lengths", [PROMPT, (5, 5)])
def test_a_draft_changes_passes_but_not_the_answer(
    micro: Model, batch: Batches, lengths: tuple[int, int], most: int, mask_state: str
) -> None:
    """Drafts of five ids that agree with image 0, with image 1 or with none, up to each place."""
    model, prompts = speaking(micro, mask_state), opened(batch((1, 1)), lengths)
    plain = generate(model, prompts, seg=-5, eos=-1, max_new_tokens=9).ids
    assert plain[0] != plain[1]
    for image, right in product((0, 1), range(6)):
        draft = plain[image][:right] + [1 + max(plain[image])] * (5 - right)
        for seg, eos in ((plain[image][2], plain[image][4]), (plain[image][5], -1)):
            said = {"seg": seg, "eos": eos, "max_new_tokens": most}
            want = generate(model, prompts, **said)
            with passes(model) as count:
                got = generate(model, prompts, **said, draft=draft)
            assert got.ids == want.ids
            assert got.seg.tolist() == want.seg.tolist()
            torch.testing.assert_close(got.masks, want.masks, rtol=1e-4, atol=1e-4)
            assert count() <= max(len(row) for row in got.ids) + 1


def test_an_answer_that_is_the_draft_takes_one_pass(micro: Model, batch: Batches) -> None:
    """Two different answers take as many passes as the longer one has ids left."""
    model, prompts = speaking(micro), opened(batch((1, 1)))
    plain = generate(model, prompts, seg=-5, eos=-1, max_new_tokens=5).ids
    assert plain[0][0] != plain[1][0]
    alone = replace(
        prompts.map(lambda x: x[:1]), sizes=prompts.sizes[:1], sent_ids=((),), seg_row=prompts.seg_row,
        seg_col=prompts.seg_col,
    )  # fmt: skip
    for asked, passed in ((alone, 1), (prompts, 5)):
        with passes(model) as count:
            generate(model, asked, seg=plain[0][2], eos=-1, max_new_tokens=5, draft=plain[0][:4])
        assert count() == passed


@pytest.mark.parametrize("draft", [False, True])
@pytest.mark.parametrize("mask_state", ["predicting", "at_seg"])
def test_answers_after_a_prefix_are_those_of_the_whole_dialogues(
    micro: Model, batch: Batches, mask_state: str, draft: bool
) -> None:
    """Two dialogues about one image, of different lengths, which start alike."""
    model, prompts = speaking(micro, mask_state), opened(batch((1, 1)))
    same = [0, 0]
    ids = prompts.ids.clone()
    ids[1, :4] = ids[0, :4]
    whole = replace(
        prompts, ids=ids, visual=prompts.visual.map(lambda x: x[same]), sam=prompts.sam[same]
    )
    plain = generate(model, whole, seg=-5, eos=-1, max_new_tokens=6).ids
    assert plain[0] != plain[1]
    said = {"seg": plain[1][1], "eos": -1, "max_new_tokens": 6}
    want = generate(model, whole, **said)
    prefix = read_prefix(model, replace(whole, visual=whole.visual.map(lambda x: x[:1])), 4)
    once = replace(whole, sam=prompts.sam[:1], visual=Visual(prompts.visual.patches[:, :0], (4, 4)))
    got = generate(model, once, **said, prefix=prefix, draft=plain[0][:3] if draft else ())
    assert got.ids == want.ids and got.seg.tolist() == want.seg.tolist()
    torch.testing.assert_close(got.masks, want.masks, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
def test_a_gpu_says_what_the_cpu_says(micro: Model, batch: Batches) -> None:
    said = []
    for device in ("cpu", "cuda"):
        model = micro(seed=3).eval().to(device)
        prompts = opened(batch((1, 1))).to(device, torch.float32)
        answers = generate(model, prompts, seg=9, eos=-1, max_new_tokens=8)
        said.append(answers.ids)
    assert said[0] == said[1]
