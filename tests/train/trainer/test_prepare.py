"""Which GPU a run is on."""

import pytest
import torch

from svp.pipeline.errors import ConfigError
from svp.train.trainer.prepare import pin_gpu


def test_a_numbered_gpu_is_the_one_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for device in ("cpu", "cuda", "cuda:1"):
        pin_gpu(device)
    assert taken == [1]
    with pytest.raises(ConfigError, match="--device cuda:2: 2 CUDA devices found"):
        pin_gpu("cuda:2")


def test_several_processes_do_not_share_a_numbered_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    pin_gpu("cuda")
    with pytest.raises(ConfigError, match="--device cuda:1 with 4 processes: each takes a GPU"):
        pin_gpu("cuda:1")
