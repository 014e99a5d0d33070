"""Kernels are counted by hand: views are none, bytes are of what is read and written."""

import pytest
import torch

from svp.pipeline.bench.kernel_time import H200, DeviceRates, device_rates
from svp.pipeline.bench.operators import Kernel, KernelCounter, Kernels


def test_operators_belong_to_the_part_that_ends_after_them() -> None:
    x, w = torch.ones(4, 8), torch.ones(8, 2)
    with KernelCounter() as counter:
        y = x.t().t()[:2].reshape(2, 8)  # views only
        counter.lap("views")
        y = y @ w
        counter.lap("products/inner")
        y.to(torch.float64).add_(1)
        torch.empty(3)
        torch.promote_types(torch.float32, torch.float64)
        counter.lap("rest")
        y.relu()
        counter.lap("products")
    assert counter.parts["views"] == Kernels()
    product = Kernel("mm", 2 * 2 * 8 * 2, 4 * (2 * 8 + 8 * 2 + 2 * 2))
    assert counter.parts["products"] == Kernels({product: 1, Kernel("relu", 0, 32): 1})
    cast, added = Kernel("_to_copy", 0, 16 + 32), Kernel("add_", 0, 64)
    assert counter.parts["rest"] == Kernels({cast: 1, added: 1})
    assert counter.parts["rest"].casts == 1 and counter.parts["rest"].operators == 2
    assert list(counter.parts) == ["views", "products", "rest"]


def test_many_tensors_cast_by_one_operator_are_one_cast() -> None:
    made = [torch.empty(4, dtype=torch.bfloat16) for _ in range(3)]
    with KernelCounter() as counter:
        torch._foreach_copy_(made, [torch.ones(4) for _ in made])
        counter.lap("all")
    assert counter.parts["all"][Kernel("_foreach_copy_", 0, 3 * (8 + 16))] == 1
    assert counter.parts["all"].casts == 1


def test_the_backward_pass_counts_too() -> None:
    x = torch.ones(3, 3, requires_grad=True)
    with KernelCounter() as counter:
        y = (x @ x).sum()
        counter.lap("forward")
        y.backward()
        counter.lap("backward")
    assert [kernel.name for kernel in counter.parts["forward"]] == ["mm", "sum"]
    names = [kernel.name for kernel in counter.parts["backward"].elements()]
    assert names.count("mm") == 2
    assert counter.parts["backward"].flops == 2 * counter.parts["forward"].flops == 2 * 54


def test_bytes_of_expanded_tensors_and_of_tables() -> None:
    table, rows = torch.ones(1000, 4), torch.tensor([1, 2])
    with KernelCounter() as counter:
        torch.nn.functional.embedding(rows, table)
        counter.lap("rows")
        torch.ones(1, 4).expand(100, 4).add(1)
        counter.lap("expanded")
    taken = 4 * 2 * 4
    assert counter.parts["rows"] == Kernels({Kernel("embedding", 0, 2 * taken + 2 * 8): 1})
    assert Kernel("add", 0, 4 * 4 + 400 * 4) in counter.parts["expanded"]


@pytest.mark.parametrize(("launch", "seconds"), [(0.5, 10.0), (4.0, 12.0)])
def test_the_slower_of_gpu_and_host_counts(launch: float, seconds: float) -> None:
    """Two products bound by their operations, one bound by its bytes: 2 x 3 + 4 seconds."""
    kernels = Kernels({Kernel("mm", 30, 4): 2, Kernel("mm", 10, 8): 1})
    rates = DeviceRates(products=10, memory=2, launch=launch)
    assert (rates.device_seconds(kernels), rates.host_seconds(kernels)) == (10, 3 * launch)
    assert rates.seconds(kernels) == seconds


def test_on_a_cpu_launches_and_work_add_up() -> None:
    kernels = Kernels({Kernel("mm", 30, 4): 2})
    assert DeviceRates(10, 2, 0.5, serial=True).seconds(kernels) == 2 * (3 + 0.5)


def test_other_devices_are_measured() -> None:
    """A matrix of 1024 takes more than a microsecond and less than a minute."""
    found = device_rates(torch.device("cpu"), torch.float32)
    assert found.serial and 1e7 < found.products < 1e16 and 1e6 < found.memory < 1e14
    assert 1e-8 < found.launch < 1


def test_the_rates_of_an_h200_are_below_what_one_kernel_reaches() -> None:
    assert H200.products < 790e12 and H200.memory < 4.3e12
