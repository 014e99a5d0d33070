"""Operators of the compiled projector, counted in the code that inductor writes for the CPU.

They are products, attention, and a kernel for all that lies between two of them; sizes do not matter.
As on a GPU, one kernel writes values that go side by side. In training the casts of all weights and
of their gradients are added.
"""

import re
from unittest import mock

import torch
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.utils import run_and_get_code

from ...model.batch import Batch
from ...model.ris import RisModel


def counts(model: RisModel, batch: Batch) -> dict[str, float]:
    """Operators of the projector of `model`, in training and in inference."""
    model.projector.train().requires_grad_(True).compile_project()

    def train() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            tokens, _ = model.tokens(batch)
        torch.autograd.backward(tokens.sum())

    def answer() -> None:
        with torch.no_grad():
            model.tokens(batch)

    # What is written is not built: it is only counted, and the passes then compute nothing.
    unbuilt = mock.patch.object(AsyncCompile, "cpp_pybinding", lambda *_: lambda *_: None)
    # One thread: more would be processes, which start for nothing.
    side_by_side = torch._inductor.config.patch(
        force_pointwise_cat=True, force_disable_caches=True, compile_threads=1
    )
    torch._dynamo.reset()
    with unbuilt, side_by_side:
        (_, trained), (_, answered) = run_and_get_code(train), run_and_get_code(answer)
    torch._dynamo.reset()
    return {
        "projector, operators, training": sum(map(_launches, trained)) + 2,
        "projector, operators, inference": sum(map(_launches, answered)),
    }


def _launches(code: str) -> int:
    """Calls of kernels in a module that inductor has written."""
    call = r"^ +(?:\w+ = )?(?:cpp_fused\w*|extern_kernels\.\w+|torch\.ops\.aten\.[\w.]+)\("
    return len(re.findall(call, code[code.index("def call(") :], re.MULTILINE))
