"""What a run's log says of its speed: MFU of real positions beside that of padded ones."""

import logging
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from support import micro_run
from svp.train.estimates.flops import peak_flops
from svp.train.estimates.gpus import GPUS
from svp.train.estimates.utilisation import Utilisation, utilisation_of
from svp.train.trainer.monitor import Watch
from svp.train.trainer.prepare import make_ready

PEAK = 1e9
# Numbers of the micro model: q, k, v, o and the MLP of two layers; adapters of q and v, rank 2.
FROZEN, ADAPTERS, LAYERS, WIDTH, VOCABULARY = 2 * (4 * 256 + 3 * 512), 2 * 2 * 64, 2, 16, 24


def flops(lengths: list[int], answers: int, adapters: int, frozen: int) -> float:
    """The formula of docs/benchmarks.md, written out; `frozen` 4, or 6 where the layers train."""
    each = sum(frozen * FROZEN * t + 6 * adapters * t + 12 * LAYERS * WIDTH * t**2 for t in lengths)
    return each + 6 * VOCABULARY * WIDTH * answers


ONE, TWO = micro_run.RECIPE["stages"]
WHOLE = {"name": "all", "steps": 2, "warmup": 0, "trains": ["projector", "mask_decoder", "lm"]}


@pytest.mark.parametrize(
    ("stage", "frozen", "adapters"), [(ONE, 4, 0), (TWO, 4, ADAPTERS), (WHOLE, 6, 0)]
)
def test_mfu_counts_real_positions_in_all_the_time(
    stage: dict[str, Any], frozen: int, adapters: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 50.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    model = micro_run.micro_model()
    make_ready(model, micro_run.micro_recipe(stages=[stage]), 0)
    watch = Watch(9, 8, 1, torch.device("cpu"), Utilisation(PEAK))
    watch.enter(model.lm)
    batches = [micro_run.micro_batch([1, 2, 3, 4]), micro_run.micro_batch([5, 6, 7])]
    watch.step(batches, model.projector)
    watch.step(batches[:1], model.projector)
    now = 54.0
    line, numbers = watch.read(2)

    real = padded = 0.0
    for batch in (*batches, batches[0]):
        assert batch.visual.valid is not None
        lengths = (batch.lengths - 1 + batch.visual.valid.sum(1)).tolist()
        answers = int((batch.labels >= 0).sum())
        real += flops(lengths, answers, adapters, frozen)
        padded += flops([max(lengths)] * len(lengths), answers, adapters, frozen)
    mfu, whole = real / 4 / PEAK, padded / 4 / PEAK
    assert numbers["rate/mfu"] == pytest.approx(mfu)
    assert numbers["rate/mfu-padded"] == pytest.approx(whole) and whole > mfu
    assert f"MFU {100 * mfu:.1f} % ({100 * whole:.1f} % with padding)" in line
    now = 55.0
    assert watch.read(2)[1]["rate/mfu"] == 0, "since the last reading"


def test_a_run_logs_it_in_both_stages_where_the_peak_is_known(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    micro_run.run(tmp_path / "run", micro_run.micro_recipe(), utilisation=Utilisation(PEAK))
    steps = [line for line in caplog.messages if line.startswith("step ")]
    assert len(steps) == 7 and all(" MFU " in line for line in steps)
    assert not any(" MFU 0.0 %" in line for line in steps)
    caplog.clear()
    micro_run.run(tmp_path / "other", micro_run.micro_recipe())
    assert not any("MFU" in line for line in caplog.messages)


def test_the_peak_is_that_of_the_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"NVIDIA H200": "h200", "NVIDIA H100 80GB HBM3": "h100", "NVIDIA A100-SXM4-80GB": "a100",
             "NVIDIA GeForce RTX 4090": "4090"}  # fmt: skip
    assert all(peak_flops(name) == GPUS[key].peak for name, key in names.items())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    cuda = torch.device("cuda")
    found = utilisation_of(cuda, "bfloat16")
    assert found is not None and found.peak == GPUS["h200"].peak
    assert utilisation_of(cuda, "float32") is None
    assert utilisation_of(torch.device("cpu"), "bfloat16") is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA T4")
    assert utilisation_of(cuda, "bfloat16") is None
