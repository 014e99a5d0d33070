"""Compiled passes answer as plain ones do, and one shape serves a bucket."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from svp.model.batch import Batch
from svp.model.inference import compiled
from svp.model.inference.compiled import Compiled, Passes, bucketed
from svp.model.inference.generate import generate
from svp.model.inference.shared_prefix import read_prefix, reply_after
from svp.model.ris import RisModel, split_by_image

Model = Callable[..., RisModel]
Batches = Callable[..., Batch]


def narrowed(batch: Batch, superpixels: int, ids: int) -> Batch:
    """With fewer places for superpixels; cut to `ids`."""
    visual = batch.visual.map(lambda x: x[:, :superpixels])
    visual = replace(visual, patches=batch.visual.patches)
    return replace(
        batch, visual=visual, ids=batch.ids[:, :ids], labels=batch.labels[:, :ids],
        lengths=batch.lengths.clamp(max=ids),
    )  # fmt: skip


@pytest.mark.parametrize("state", ["predicting", "at_seg"])
@pytest.mark.parametrize("projector", ["svp", "mlp"])
def test_padding_to_a_bucket_changes_no_mask(
    micro: Model, batch: Batches, projector: str, state: str
) -> None:
    model = micro(projector).eval()
    model.mask_state = state  # type: ignore[assignment]
    given = batch((1, 3), sizes=((20, 32), (24, 16))).with_layout()
    padded = bucketed(given)
    assert padded.ids.shape[1] == 32
    assert padded.visual.valid is not None and padded.visual.valid.shape[1] == 8
    with torch.no_grad():
        want = model.predict(given)
        (mine,) = Passes(model)._states(padded)
        masks = given.layout.masks
        found = split_by_image(model.masks_of(mine, masks, given), masks.images, given.sizes)
    for one, other in zip(found, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_one_shape_serves_the_answers_of_a_bucket(
    micro: Model, batch: Batches, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    model = micro("svp").eval()

    def counting(graph: Any, inputs: Any) -> Any:
        made.append(len(inputs))
        return torch._dynamo.lookup_backend(backend)(graph, inputs)

    torch._dynamo.reset()
    passes = Passes(model, backend)
    passes._whole = Compiled(passes._states, counting)  # type: ignore[arg-type]
    given = batch((1, 1))
    with torch.no_grad():
        for one in (given, narrowed(given, 4, 9), batch((1, 2)), batch((1, 1, 1))):
            for found, want in zip(passes.predict(one), model.predict(one), strict=True):
                torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5)
        assert len(made) == 3
        monkeypatch.setattr(compiled, "BUCKETS", 3)
        other = batch((2, 2, 2))
        for found, want in zip(passes.predict(other), model.predict(other), strict=True):
            torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5)
        assert len(made) == 3


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_steps_say_what_plain_ones_do(micro: Model, batch: Batches, backend: str) -> None:
    """From a prompt and after a prefix, with graphs and buffers that were used before."""
    torch._dynamo.reset()
    model = micro(seed=3).eval()
    given = batch((1, 1))
    prompts = replace(given, ids=given.ids[:, :6], lengths=torch.tensor([6, 5]))
    passes = Passes(model, backend)
    for most in (6, 4):
        want = generate(model, prompts, seg=9, eos=-1, max_new_tokens=most)
        got = generate(model, prompts, seg=9, eos=-1, max_new_tokens=most, passes=passes)
        assert got.ids == want.ids
    one = replace(given, visual=given.visual.map(lambda x: x[:1]), sam=given.sam[:1])
    one = replace(one, ids=torch.cat([given.ids[:1, :4].expand(2, -1), given.ids[:, 4:]], 1))
    prefix = read_prefix(model, one, 4)
    for _ in range(2):
        want_masks = model.drawn(reply_after(Passes(model), one, prefix), one)
        got_masks = model.drawn(reply_after(passes, one, prefix), one)
        torch.testing.assert_close(got_masks, want_masks, rtol=1e-4, atol=1e-5)
    assert len(passes._next.shapes) == 1 and len(passes._after.shapes) == 1


@pytest.mark.gpu
def test_graphs_of_a_gpu_answer_as_its_plain_passes(micro: Model, batch: Batches) -> None:
    model = micro("svp").eval().cuda()
    given = batch((1, 2)).to("cuda", torch.float32)
    passes = Passes(model, "inductor")
    prompts = replace(given, ids=given.ids[:, :5], lengths=torch.tensor([5, 5], device="cuda"))
    for _ in range(4):
        with torch.no_grad():
            for found, want in zip(passes.predict(given), model.predict(given), strict=True):
                torch.testing.assert_close(found, want, rtol=1e-3, atol=1e-3)
        want_ids = generate(model, prompts, seg=9, eos=-1, max_new_tokens=6).ids
        got = generate(model, prompts, seg=9, eos=-1, max_new_tokens=6, passes=passes)
        assert got.ids == want_ids


def test_buffers_that_serve_again_hold_nothing_of_before(micro: Model) -> None:
    """A NaN that one photograph left in a slot is none of the next one's, though it is masked."""
    passes = Passes(micro(seed=3), "eager")
    first = passes.buffers(1, 10)
    first.keys.fill_(float("nan"))
    first.values.fill_(float("nan"))
    first.skipped = 3
    again = passes.buffers(1, 12)
    assert again is first, "a graph reads them where they are"
    assert not again.keys.any() and not again.values.any() and again.skipped == 0
