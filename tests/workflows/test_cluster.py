"""The cluster examples: they parse, fit this package, and their scripts do what they say when run.

Slurm scripts run for real under bash, with stand-ins for `svp`, `srun` and `scontrol` that write
down how they were called; the calls are then parsed by the command line itself.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

import svp
from svp.cli import main
from svp.pipeline.errors import ConfigError, MissingError

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "workflows" / "cluster"
SCRIPTS = sorted(CLUSTER.glob("*.sh"))
RAY = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())["ray"]
RECORD = f"""#!{sys.executable}
import json, os, sys, time
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps(sys.argv) + "\\n")
name = os.path.basename(sys.argv[0])
if name == "scontrol" and sys.argv[1] == "show":
    print("node1\\nnode2")
if name in os.environ.get("ENDS", "").split(":")[0].split(","):
    import signal
    signal.signal(signal.SIGTERM, lambda *a: sys.exit(143))
    if os.environ["ENDS"].endswith(":wait"):
        time.sleep(60)
    sys.exit(int(os.environ["ENDS"].split(":")[1]))
"""


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with the stand-ins first; returns the file of their calls."""
    for name in ("svp", "srun", "scontrol"):
        (tmp_path / name).write_text(RECORD)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return tmp_path / "calls"


def calls(path: Path) -> list[list[str]]:
    """Every call, the program by its plain name."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [[Path(line[0]).name, *line[1:]] for line in lines]


def run(script: str, **env: str) -> int:
    command = ["bash", str(CLUSTER / script)]
    return subprocess.run(command, env=os.environ | env, timeout=60, check=False).returncode


def parsed(arguments: list[str]) -> click.Context:
    """`svp ...` as the command line takes it; raises on any option it does not have."""
    group = main
    assert arguments[0] == "svp"
    command = group.commands[arguments[1]]
    return command.make_context(arguments[1], list(arguments[2:]))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound_bash(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "set -euo pipefail" in script.read_text()


def test_array_tasks_join_with_the_same_command(bench: Path) -> None:
    for task in (0, 3):
        assert run("slurm-precompute.sh", SLURM_ARRAY_TASK_ID=str(task)) == 0
    first, second = calls(bench)
    assert first == second
    given = parsed(first).params
    assert given["join"] and given["shards"] is None and given["size"] == "paper"
    assert str(given["out"]).startswith("/scratch")


def test_a_preempted_task_ends_svp_cleanly_and_is_requeued(bench: Path) -> None:
    env = {"SLURM_JOB_ID": "77", "SLURM_ARRAY_JOB_ID": "70", "ENDS": "svp:0:wait"}
    script = subprocess.Popen(
        ["bash", str(CLUSTER / "slurm-precompute.sh")], env=os.environ | env, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not calls(bench) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)  # the stand-in installs its handler
    script.send_signal(signal.SIGTERM)
    assert script.wait(60) == 143
    assert calls(bench)[-1] == ["scontrol", "requeue", "70_0"]


@pytest.mark.parametrize(("code", "again"), [(0, False), (1, False), (3, False), (143, True)])
def test_training_is_requeued_when_stopped_not_when_it_failed(
    bench: Path, code: int, again: bool
) -> None:
    env = {"SLURM_JOB_ID": "9", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8",
           "SLURM_JOB_NODELIST": "node[1-2]", "ENDS": f"srun:{code}"}  # fmt: skip
    assert run("slurm-train.sh", **env) == code
    made = calls(bench)
    (started,) = [call for call in made if call[0] == "srun"]
    assert (["scontrol", "requeue", "9"] in made) is again
    torchrun = started[started.index("torchrun") :]
    assert torchrun[torchrun.index("--rdzv-endpoint") + 1] == "node1:29500"
    assert torchrun[torchrun.index("--nnodes") + 1 : torchrun.index("--rdzv-id")] == [
        "2", "--nproc-per-node", "8"]  # fmt: skip
    given = parsed(torchrun[torchrun.index("-m") + 1 :]).params
    assert given["resume"] == "auto" and given["size"] == "paper"


def test_ray_cluster_fits_rays_schema_and_version() -> None:
    util = pytest.importorskip("ray.autoscaler._private.util")
    text = (CLUSTER / "ray-cluster.yaml").read_text()
    config: dict[str, Any] = yaml.safe_load(text)
    util.validate_config(util.prepare_config(config))  # as `ray up` does
    assert f"ray=={RAY}" in text
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    for command in (line for line in starts if "ray start" in line):
        assert "RAY_AUTH_MODE=token" in command
    assert "--include-dashboard=false" in " ".join(starts)
    assert "0.0.0.0" not in text


def test_kuberay_job_runs_a_command_that_exists() -> None:
    job: dict[str, Any] = yaml.safe_load((CLUSTER / "kuberay-job.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", job["metadata"]["name"])
    spec = job["spec"]
    given = parsed(shlex.split(spec["entrypoint"])).params
    assert (given["executor"], given["ray_address"]) == ("ray", "auto")
    assert spec["shutdownAfterJobFinishes"] is True
    cluster = spec["rayClusterSpec"]
    assert cluster["rayVersion"] == RAY and cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    images = set()
    for group in groups:
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            images.add(container["image"].split("#")[0].strip())
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert container["resources"]["requests"] == container["resources"]["limits"]
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert len(images) == 1 and images.pop().endswith(f"svp:{svp.__version__}")
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]


def test_kubernetes_job_joins_with_a_command_that_exists() -> None:
    job: dict[str, Any] = yaml.safe_load((CLUSTER / "kubernetes-job.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert spec["parallelism"] > 1 and "completions" not in spec, "a work queue"
    assert pod["restartPolicy"] == "Never", "podFailurePolicy requires it"
    (container,) = pod["containers"]
    given = parsed([*container["command"], *container["args"]]).params
    assert given["join"] and given["size"] == "paper" and str(given["out"]).startswith("/data")
    rules = spec["podFailurePolicy"]["rules"]
    assert {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]} in rules
    codes = next(rule["onExitCodes"] for rule in rules if "onExitCodes" in rule)
    assert codes["containerName"] == container["name"]
    assert codes["values"] == [ConfigError.exit_code, MissingError.exit_code]
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["image"].endswith(f"svp:{svp.__version__}")


def test_the_image_has_this_wheel_and_this_ray() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    assert f"svp-{svp.__version__}-py3-none-any.whl" in text
    assert set(re.findall(r"ray(?:==|:)(\d+\.\d+\.\d+)", text)) == {RAY}


def test_the_readme_lists_every_file() -> None:
    text = (CLUSTER / "README.md").read_text()
    files = {path.name for path in CLUSTER.iterdir() if path.name != "README.md"}
    assert files == set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))
