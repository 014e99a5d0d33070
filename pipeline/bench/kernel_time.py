"""Time of counted operators by three constants of a device.

Matrix products run at one rate and all other kernels at the rate of the memory; the host needs a
fixed time per operator. Host and GPU work side by side, so the slower of the two counts.
"""

from dataclasses import dataclass

from .operators import Kernels


@dataclass(frozen=True, slots=True)
class DeviceRates:
    """products FLOP/s; memory bytes/s; launch seconds of the host per eager operator."""

    products: float
    memory: float
    launch: float

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
        """The slower of the two."""
        return max(self.device_seconds(kernels), self.host_seconds(kernels))


# Set by hand on two timings of the language model (stage 2, one image); a GEMM alone reaches 790
# TFLOP/s there, a copy 4.3 TB/s.
H200 = DeviceRates(products=632e12, memory=3.25e12, launch=18e-6)
