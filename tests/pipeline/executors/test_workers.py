"""What a worker is asked before its first job, what is asked of Ray for it, and what is shipped."""

import os
import platform
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import svp
from support.mock_task import MockTask
from svp.cli import main
from svp.pipeline.errors import CacheError, ConfigError
from svp.pipeline.executors import ExecutorOptions, build, ray
from svp.pipeline.executors.base import Needs, Ready, Refused
from svp.pipeline.executors.dask import Process
from svp.pipeline.executors.ray_nodes import Look, Nodes, fitting
from svp.pipeline.executors.shipping import package_copy
from svp.pipeline.executors.worker import Setup, WorkerRuntime, worker_info
from svp.pipeline.precompute.run import RunOptions
from svp.pipeline.process import installed

CLUSTER = ExecutorOptions(ray_address="auto", device="cuda", threads=2)


@dataclass(frozen=True)
class Wanting(MockTask):
    """Needs a version of numpy."""

    numpy: str = ""

    @property
    def needs(self) -> Needs:
        return Needs("c", {"numpy": self.numpy, "no-such-package": "none"})


def test_a_worker_with_the_plans_versions_says_what_it_is(tmp_path: Path) -> None:
    task = Wanting(str(tmp_path), "", numpy=installed("numpy"))
    event = WorkerRuntime(replace(Setup.of(task, ExecutorOptions()), worker=3)).load()
    assert isinstance(event, Ready) and event.worker == 3
    assert event.info["libraries"] == {"numpy": installed("numpy"), "no-such-package": "none"}
    assert (event.info["svp"], event.info["host"]) == (svp.__version__, platform.node())
    assert event.info["pid"] == os.getpid() and event.info["device"]
    assert event.result["device"] == event.info["device"], "it is in events.jsonl"
    assert worker_info(["numpy"]).keys() == event.info.keys()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have other rules")
def test_freed_tensors_are_not_mapped_anew() -> None:
    code = """
import resource
import torch
from svp.pipeline.executors.worker import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        layers = [torch.ones(16 << 20, dtype=torch.uint8) for _ in range(8)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

plain = faults()
keep_freed_memory()
faults()
print(plain, faults())
"""
    plain, kept = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert int(kept) < int(plain) / 10


def test_another_version_is_refused_before_anything_is_loaded() -> None:
    task = Wanting("", "", numpy="1.0.0", load="die")  # to load it would end this process
    setup = Setup.of(task, ExecutorOptions())
    event = WorkerRuntime(replace(setup, svp="9.9")).load()
    assert isinstance(event, Refused)
    assert (
        f"has svp {svp.__version__}, not 9.9, numpy {installed('numpy')}, not 1.0.0" in event.detail
    )
    with pytest.raises(CacheError, match=r"numpy .*, not 1\.0\.0, with which the plan was made"):
        list(build("local", ExecutorOptions(workers=0)).events(task, [0]))


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (CLUSTER, {"num_cpus": 2, "num_gpus": 1, "memory": 7}),
        (replace(CLUSTER, gpus_per_worker=0.5), {"num_cpus": 2, "num_gpus": 0.5, "memory": 7}),
        (
            replace(CLUSTER, require_gpu="A100"),
            {"num_cpus": 2, "num_gpus": 1, "memory": 7, "accelerator_type": "A100"},
        ),
        (ExecutorOptions(ray_address="auto"), {"num_cpus": 1, "memory": 7}),
        (ExecutorOptions(threads=4), {"num_cpus": 4}),
    ],
)
def test_what_an_actor_asks_for(options: ExecutorOptions, wanted: dict[str, object]) -> None:
    assert ray.resources(Needs("c", memory=7), options) == wanted


def test_how_many_workers_a_node_holds() -> None:
    node = {"CPU": 16.0, "GPU": 2.0, "memory": 64e9, "accelerator_type:A100": 1.0}
    assert fitting({"num_cpus": 2, "num_gpus": 0.5, "memory": 6.7e9}, node) == 4
    assert fitting({"num_cpus": 2, "memory": 20e9}, node) == 3
    assert fitting({"num_cpus": 1, "num_gpus": 1, "accelerator_type": "A100"}, node) == 2
    assert fitting({"num_cpus": 1, "num_gpus": 1, "accelerator_type": "H100"}, node) == 0
    assert fitting({"num_cpus": 1, "num_gpus": 1}, {"CPU": 8.0}) == 0
    assert fitting({"num_gpus": 0.1}, {"GPU": 0.3}) == 3, "no rounding error takes one away"


def test_capacity_leaves_out_what_drains_or_is_avoided() -> None:
    look = Look({"a": {"CPU": 4.0}, "b": {"CPU": 2.0}}, frozenset({"c"}), frozenset({"d"}))
    nodes = Nodes(lambda: look)
    try:
        assert nodes.capacity({"num_cpus": 2}, set()) == 3
        assert nodes.capacity({"num_cpus": 2}, {"a"}) == 1
        assert (nodes.draining(), nodes.gone()) == ({"c"}, {"d"})
    finally:
        nodes.close()


def test_a_silent_head_is_an_error_in_time() -> None:
    """Its calls hang, so a thread waits for them; Ray would end the process after 60 s."""
    clock, asked, hang = [0.0], threading.Event(), threading.Event()

    def ask() -> Look:
        if threading.current_thread() is not threading.main_thread():
            asked.set()
            hang.wait(30)
        return Look()

    nodes = Nodes(ask, lambda: clock[0])
    try:
        assert asked.wait(30)
        clock[0] = 39.0
        assert nodes.draining() == set()
        clock[0] = 41.0
        with pytest.raises(CacheError, match="head of the Ray cluster has not answered for 41 s"):
            nodes.draining()
    finally:
        nodes.close()
        hang.set()


def test_what_is_shipped_is_what_a_wheel_holds(tmp_path: Path) -> None:
    copy = package_copy(tmp_path)
    root = Path(svp.__file__).parent
    held = {path.relative_to(copy) for path in copy.rglob("*") if path.is_file()}
    modules = {
        path.relative_to(root)
        for top in ("pipeline", "model", "train", "integrations")
        for path in (root / top).rglob("*.py")
    }
    assert modules < held
    assert {path.parts[0] for path in held} == {
        "__init__.py", "__main__.py", "cli.py", "py.typed", "pipeline", "model", "train", "integrations",
        "workflows",
    }  # fmt: skip
    assert Path("workflows/tiny/sam.safetensors") in held, "the tiny models are part of it"
    assert not [
        path for path in held if "__pycache__" in path.parts or "pretrain_tiny" in path.parts
    ]


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 8, "least_workers": 2}, "workers=2:8: a range is for a cluster"),
        ({"workers": 2, "least_workers": 8, "ray_address": "auto"}, "workers=8:2: need A <= B"),
        ({"gpus_per_worker": 0.5}, "gpus_per_worker requires a Ray cluster"),
        ({"require_gpu": "A100", "dask_scheduler": "tcp://x:1"}, "require_gpu requires a Ray clus"),
        ({"ship": True, "dask_scheduler": "tcp://x:1"}, "ship requires a Ray cluster"),
        ({"require_gpu": "A100", "ray_address": "auto"}, "need workers on GPUs: --device cuda"),
        (
            {"gpus_per_worker": 1.5, "ray_address": "auto", "device": "cuda"},
            "gpus_per_worker=1.5: need a share of one GPU, or a whole number",
        ),
        ({"gpus_per_worker": -1, "ray_address": "auto", "device": "cuda"}, "gpus_per_worker=-1"),
        ({"gpus_per_worker": 0.0, "ray_address": "auto", "device": "cuda"}, "gpus_per_worker=0"),
        ({"gpus_per_worker": NAN, "ray_address": "auto", "device": "cuda"}, "gpus_per_worker=nan"),
        ({"gpus_per_worker": INF, "ray_address": "auto", "device": "cuda"}, "gpus_per_worker=inf"),
        ({"worker_timeout_s": 0}, "worker_timeout=0"),
        ({"worker_timeout_s": -1.0}, "worker_timeout=-1"),
        ({"worker_timeout_s": NAN}, "worker_timeout=nan"),
    ],
)
def test_what_only_a_cluster_can_do(options: dict[str, object], message: str) -> None:
    executor = "dask" if "dask_scheduler" in options else "ray"
    with pytest.raises(ConfigError, match=message):
        RunOptions(executor=executor, **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message):
        build(executor, ExecutorOptions(**options))  # type: ignore[arg-type]


def test_the_place_of_a_dask_worker_is_its_nanny_whatever_its_name() -> None:
    def place(address: str, **told: object) -> str:
        return Process.of(address, told).place

    assert place("tcp://h:1", name="gpu", nanny="tcp://h:9") == "gpu (tcp://h:9)"
    assert place("tcp://h:2", name="gpu", nanny="tcp://h:9") == "gpu (tcp://h:9)", "started again"
    assert place("tcp://h:3", name="gpu", nanny="tcp://h:8") == "gpu (tcp://h:8)", "mended"
    assert place("tcp://h:1", name="tcp://h:1", nanny="tcp://h:9") == "tcp://h:9"
    assert place("tcp://h:1", name="tcp://h:1", nanny=None) == place("tcp://h:1") == "tcp://h:1"
    assert place("tcp://h:1", name=0) == "0 (tcp://h:1)"


def test_a_number_of_workers_or_a_range_on_the_command_line() -> None:
    from svp.pipeline.commands.precompute import _workers

    assert [_workers(text) for text in (None, "0", "4", "8:256")] == [
        (None, 1), (0, 1), (4, 1), (256, 8)
    ]  # fmt: skip
    for text in ("a", "4:", ":4", ":", "-1", "1:2:3", "2.5", "8:4x", "0:0", "²", "1:²", "٣",
                 "9" * 5000):  # fmt: skip
        said = CliRunner().invoke(main, ["precompute", "x", "--workers", text])
        assert said.exit_code == 2 and "want a number, or A:B" in said.output, said.output
    said = CliRunner().invoke(main, ["precompute", "x", "--workers", "2:8"])
    assert said.exit_code == 2 and "a range is for a cluster" in said.output


def test_shards_are_two_plain_numbers() -> None:
    from svp.pipeline.commands.precompute import _shards

    assert [_shards(text) for text in (None, "0:3", "10:12")] == [None, range(3), range(10, 12)]
    for text in ("3", "3:3", "3:2", ":", "1:", "-1:2", "1:²", "0:" + "9" * 5000):
        said = CliRunner().invoke(main, ["precompute", "x", "--shards", text])
        assert said.exit_code == 2 and "want A:B with A < B" in said.output, said.output


@pytest.mark.parametrize("seconds", ["0", "-1", "nan"])
def test_a_time_limit_of_a_shard_is_more_than_nothing(seconds: str) -> None:
    said = CliRunner().invoke(main, ["precompute", "x", "--shard-timeout", seconds])
    assert said.exit_code == 2 and f"shard_timeout={seconds}: need more than 0" in said.output
