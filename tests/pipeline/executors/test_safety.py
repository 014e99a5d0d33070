"""What the executors ask of Ray and Dask (T27, T28), and how many threads a worker uses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from svp.pipeline.errors import ConfigError, MissingPackageError
from svp.pipeline.executors import ExecutorOptions, build, dask_cluster, ray
from svp.pipeline.executors.base import Done
from svp.pipeline.executors.worker import environment, thread_environment

PACKAGE = Path(ray.__file__).parents[2]


def test_ray_is_local_and_has_no_dashboard() -> None:
    options = ray.init_options(ExecutorOptions(), 2)
    assert options["include_dashboard"] is False
    assert options["_node_ip_address"] == "127.0.0.1"
    assert options["address"] == "local", "a cluster is never joined unasked"
    assert options["object_store_memory"] <= 100 * 2**20
    assert "dashboard_host" not in options


def test_ray_address_is_all_that_joins_a_cluster() -> None:
    options = ray.init_options(ExecutorOptions(ray_address="10.0.0.1:6379"), 2)
    assert options["address"] == "10.0.0.1:6379"
    assert "num_cpus" not in options


def test_dask_is_local_and_has_no_dashboard() -> None:
    options = dask_cluster.cluster_options(ExecutorOptions(), 2, "folder")
    assert options["host"] == "127.0.0.1"
    assert options["dashboard_address"] is None
    assert options["worker_dashboard_address"] is None
    assert options["threads_per_worker"] == 1
    assert options["local_directory"] == "folder"
    assert dask_cluster.CONFIG["distributed.scheduler.work-stealing"] is False


def test_no_file_opens_a_service_to_the_network() -> None:
    sources = [*(PACKAGE / "pipeline").rglob("*.py"), PACKAGE / "cli.py"]
    assert [path for path in sources if "0.0.0.0" in path.read_text()] == []


@pytest.mark.parametrize(("name", "package"), [("ray", "ray"), ("dask", "distributed")])
def test_missing_package(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda wanted: None)
    with pytest.raises(MissingPackageError, match=rf"pip install 'svp\[{name}\]'"):
        build(name)


def test_local_imports_neither() -> None:
    code = (
        "import sys; from svp.pipeline.executors import build; build('local');"
        "print([m for m in ('ray', 'dask', 'distributed', 'torch') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_environment_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with environment(thread_environment(2)):
        assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "2"
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


@pytest.mark.parametrize("threads", [1, 2])
def test_worker_computes_on_the_threads_it_was_given(threads: int, tmp_path: Path) -> None:
    """CPU time of a matrix product over its wall time: how many cores worked on it."""
    from support.thread_task import ThreadTask

    events = build("local", ExecutorOptions(workers=1, threads=threads)).events(
        ThreadTask(threads), [0]
    )
    (found,) = [event.report.seconds for event in events if isinstance(event, Done)]
    assert found["torch"] == threads
    if threads == 1:
        assert found["cores"] < 1.2, found


def test_a_folder_that_rays_sockets_cannot_have_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from svp.pipeline.executors.ray import require_folder

    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    require_folder("/tmp")
    require_folder("/var/folders/zz/12345678/T")
    for folder in ("/tmp/" + "x" * 60, "/tmp/" + "\N{EURO SIGN}" * 20):
        with pytest.raises(ConfigError, match=r"bytes too long for Ray's sockets: .*TMPDIR=/tmp"):
            require_folder(folder)
    with pytest.raises(ConfigError, match=r"not ASCII, which Ray cannot use: .*TMPDIR=/tmp"):
        require_folder("/tmp/\N{LATIN SMALL LETTER E WITH ACUTE}")
    monkeypatch.setenv("RAY_TMPDIR", "/r")
    require_folder("/tmp/" + "x" * 60)
