"""Greedy generation against the same sequence computed whole, without a cache."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from svp.model.batch import IGNORE, Batch
from svp.model.generate import generate
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
        (group,) = model.masks_of(states[0][first : first + 1], torch.tensor([0]), prompts)
    torch.testing.assert_close(got.masks[0], group.logits, rtol=1e-4, atol=1e-4)


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


@pytest.mark.gpu
def test_a_gpu_says_what_the_cpu_says(micro: Model, batch: Batches) -> None:
    said = []
    for device in ("cpu", "cuda"):
        model = micro(seed=3).eval().to(device)
        prompts = opened(batch((1, 1))).to(device, torch.float32)
        answers = generate(model, prompts, seg=9, eos=-1, max_new_tokens=8)
        said.append(answers.ids)
    assert said[0] == said[1]
