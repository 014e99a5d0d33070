"""The order of the tests: what takes minutes first, so that no process ends up with it alone.

Tests marked `gpu` are skipped where there is no CUDA device.
"""

import atexit
import gc
import logging
import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from hypothesis import HealthCheck, settings

from support import TESTS
from support.object_server import ObjectServer, point_to

# The processes that tests start import `support` too: programs, spawned workers, Ray and Dask nodes.
os.environ["PYTHONPATH"] = os.pathsep.join(
    dict.fromkeys([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
)
# Only a power loss would show whether the disk has what was written, and each fsync waits for it.
os.fsync = os.fstat  # type: ignore[assignment]
# A busy machine generates inputs and runs examples slowly: neither is a fault of the code.
settings.register_profile("svp", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("svp")
# Files whose tests run whole pipelines or several processes; the rest keep their order.
LONG = (
    "test_quickstart.py",
    "test_end_to_end.py",
    "test_cluster.py",
    "test_torchrun.py",
    "test_strategies.py",
)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported or collected is no garbage, and no pass of the collector walks it: that took a
    third of the time before the first test, then 0.3 s per stage of training, at which accelerate
    asks for one.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)  # what is never freed some packages report as their leaks


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the package logs for its user: `logged.messages`."""
    caplog.set_level(logging.INFO, logger="svp")
    return caplog


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs CUDA")


@pytest.fixture(scope="session")
def server() -> Iterator[ObjectServer]:
    """The object server with faults of tests/support."""
    pytest.importorskip("obstore", reason="needs svp[cloud]")
    with ObjectServer() as found:
        yield found


@pytest.fixture
def s3(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> ObjectServer:
    """The object server without faults or objects, as the endpoint of this test's environment."""
    point_to(monkeypatch, server.endpoint)
    server.set()
    server.clear()
    return server


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """Endpoint of moto's S3 in a process of its own, with the bucket `tests`."""
    pytest.importorskip("obstore", reason="needs svp[cloud]")
    pytest.importorskip("moto.server", reason="needs moto[server]")
    code = (
        "import os, time; from moto.server import ThreadedMotoServer as S;"
        "s = S('127.0.0.1', 0, verbose=False); s.start(); print(s.get_host_and_port()[1], flush=True);"
        "p = os.getppid()\nwhile os.getppid() == p: time.sleep(1)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    try:
        lines = iter(child.stdout.readline, "")
        endpoint = f"http://127.0.0.1:{next(int(line) for line in lines if line.strip().isdigit())}"
        with urlopen(Request(f"{endpoint}/tests", method="PUT"), timeout=60):
            yield endpoint
    finally:
        child.kill()
        child.communicate()


@pytest.fixture
def bucket(
    s3: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ObjectServer]:
    """`s3` for photographs: nothing is remembered of them yet, a failure is soon final, and no
    request is made twice because the machine is busy.
    """
    from svp.pipeline.datasets import stored_photos
    from svp.pipeline.store import RetryPolicy, Store, open_store

    def quick(place: str | Path) -> Store:
        return open_store(place, RetryPolicy(1.0, 0.01, 0.05, 2.0))

    monkeypatch.setattr("svp.pipeline.store.in_flight.Hedging.take", lambda self: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    monkeypatch.setattr(stored_photos, "open_store", quick)
    stored_photos.store_of.cache_clear()
    yield s3
    stored_photos.store_of.cache_clear()
