"""Time of counted operators by three constants of a device.

Matrix products run at one rate and all other kernels at the rate of the memory; the host needs a
fixed time per operator. Host and GPU work side by side, so the slower of the two counts; on a CPU
they are one, and their times add up.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from .operators import KernelCounter, Kernels

# Of what one large kernel reaches alone, the share that a model's kernels reach: as on an H200.
_PRODUCTS, _MEMORY = 0.8, 0.75


@dataclass(frozen=True, slots=True)
class DeviceRates:
    """products FLOP/s; memory bytes/s; launch seconds of the host per eager operator; serial: the
    host does the work itself.
    """

    products: float
    memory: float
    launch: float
    serial: bool = False

    def device_seconds(self, kernels: Kernels) -> float:
        """Of the kernels one after another, each bound by its products or by its bytes."""
        return sum(
            n * max(kernel.flops / self.products, kernel.bytes / self.memory)
            for kernel, n in kernels.items()
        )

    def host_seconds(self, kernels: Kernels) -> float:
        """Of the host, which launches them."""
        return kernels.operators * self.launch

    def seconds(self, kernels: Kernels) -> float:
        """The slower of the two, or their sum."""
        both = self.device_seconds(kernels), self.host_seconds(kernels)
        return sum(both) if self.serial else max(both)


# Set by hand on two timings of the language model (stage 2, one image); a GEMM alone reaches 790
# TFLOP/s there, a copy 4.3 TB/s.
H200 = DeviceRates(products=632e12, memory=3.25e12, launch=18e-6)


@cache
def device_rates(device: torch.device, dtype: torch.dtype) -> DeviceRates:
    """Constants of an H200; of any other device measured now, in a second or two.

    dtype  of the matrix products. On a CPU they are those of as many threads as torch uses now.
    """
    if device.type == "cuda" and "H200" in torch.cuda.get_device_name(device):
        return H200
    return measured_rates(device, dtype)


def measured_rates(device: torch.device, dtype: torch.dtype) -> DeviceRates:
    """Constants of a device measured now, see `device_rates`."""
    cuda = device.type == "cuda"
    side, numbers = (8192, 2**28) if cuda else (1024, 2**24)
    a = torch.full((side, side), 0.5, dtype=dtype, device=device)
    x = torch.zeros(numbers, device=device)
    y = torch.empty_like(x)
    layer = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU()).to(device)
    small = torch.zeros(4, 8, device=device)

    def layers() -> None:
        value = small
        for _ in range(100):
            value = layer(value)

    with KernelCounter() as counter:
        layers()
        counter.lap("layers")
    return DeviceRates(
        products=_PRODUCTS * 2 * side**3 / _least(lambda: a @ a, device),
        memory=_MEMORY * 2 * x.nbytes / _least(lambda: y.copy_(x), device),
        launch=_least(layers, device) / counter.parts["layers"].operators,
        serial=device.type == "cpu",
    )


def _least(call: Callable[[], object], device: torch.device, repeats: int = 4) -> float:
    """Seconds of the fastest of some calls; the first warms up."""
    seconds = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
