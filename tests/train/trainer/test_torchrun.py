"""`torchrun` jobs that lose a rank, and go on with another number of processes."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support import forked, micro_run
from support.object_server import ObjectServer
from svp.pipeline.store import open_store

PROGRAM = Path(micro_run.__file__)
# Dropout draws by process; without it a global batch has one loss whatever it is split into.
MODEL = {"dtype": "float32", "lora": {"r": 2, "targets": ["q_proj"], "dropout": 0.0}}


def torchrun(
    root: Path | str, world: int, *options: str, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """The job on this machine; every rank takes its share of a global batch of 6 at once."""
    run = {"micro_batch": 6 // world, "gradient_checkpointing": False, "checkpoint": 1, "keep": 9,
           "log": 1, "preview": 0}  # fmt: skip
    recipe = json.dumps({"global_batch": 6, "model": MODEL, "run": run})
    env = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.run(
        [forked.python(), "-m", "torch.distributed.run", "--standalone",
         f"--nproc-per-node={world}", str(PROGRAM), str(root), "--recipe", recipe, *options],
        env=forked.launched(env), text=True, capture_output=True, timeout=400, check=False, cwd=cwd,
    )  # fmt: skip


def losses(root: Path) -> list[float]:
    lines = (root / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Losses of a job of one process that nothing stopped."""
    root = tmp_path_factory.mktemp("whole") / "run"
    done = torchrun(root, 1)
    assert done.returncode == 0, done.stderr
    return losses(root)


@pytest.mark.parametrize(("before", "after", "step"), [(2, 3, 2), (3, 2, 5)])
@pytest.mark.timeout(900)
def test_a_rank_is_killed_and_another_number_goes_on(
    before: int, after: int, step: int, whole: list[float], tmp_path: Path
) -> None:
    """In stage 1 (step 2) and in stage 2 (step 5); the ranks left behind do not hang."""
    root = tmp_path / "run"
    lost = torchrun(root, before, "--die-at", str(step), "--die-rank", "1")
    assert lost.returncode != 0 and "Signal 9" in lost.stderr
    assert len(losses(root)) <= step
    done = torchrun(root, after, "--resume")
    assert done.returncode == 0, done.stderr
    assert losses(root) == pytest.approx(whole, abs=1e-6)
    assert len(whole) == 7


@pytest.mark.timeout(900)
def test_a_rank_that_lacks_the_checkpoint_ends_the_run(whole: list[float], tmp_path: Path) -> None:
    """Two machines whose folders of the same name are two folders; nothing waits for ever."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    lost = torchrun(Path("run"), 2, "--die-at", "3", "--die-rank", "1", cwd=here)
    assert lost.returncode != 0
    at = ("--resume", "--elsewhere", str(there))
    refused = torchrun(Path("run"), 2, *at, cwd=here)
    assert refused.returncode != 0
    said = refused.stderr
    assert "process 1 (on " in said and "the checkpoint of step 3 that process 0 resumes" in said
    assert "cannot be read here" in said and "copy it" in said

    # What the message advises works: the same run in both folders.
    shutil.copytree(here / "run", there / "run")
    done = torchrun(Path("run"), 2, *at, cwd=here)
    assert done.returncode == 0, done.stderr
    assert losses(here / "run") == pytest.approx(whole, abs=1e-6)
    assert not (there / "run/checkpoints/step-00000007").exists()  # only the first rank writes


@pytest.mark.timeout(900)
def test_two_machines_without_a_common_folder_resume_from_an_address(
    whole: list[float], tmp_path: Path, s3: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first process trains and sends; each machine fetches what it decided to resume."""
    monkeypatch.setenv("XDG_CACHE_HOME", "home")  # of the folder that a process works in
    for name in ("first", "here", "there"):
        (tmp_path / name).mkdir()
    at = "s3://tests/two/run"
    lost = torchrun(at, 2, "--die-at", "3", "--die-rank", "1", cwd=tmp_path / "first")
    assert lost.returncode != 0
    elsewhere = ("--resume", "--elsewhere", str(tmp_path / "there"))
    done = torchrun(at, 2, *elsewhere, cwd=tmp_path / "here")
    assert done.returncode == 0, done.stderr
    lines = open_store(at).read("metrics.jsonl", 10**6).splitlines()
    assert [json.loads(line)["loss"] for line in lines] == pytest.approx(whole, abs=1e-6)
    copies = [tmp_path / name / "home/svp/runs/s3/tests/two/run" for name in ("here", "there")]
    mine, theirs = (sorted(p.name for p in copy.glob("checkpoints/*")) for copy in copies)
    assert theirs == mine[:1] and mine[-1] == "step-00000007"  # only the first process writes


@pytest.mark.timeout(900)
def test_a_rank_that_cannot_read_its_share_ends_the_run(tmp_path: Path) -> None:
    """Both know which one, before either of them waits in the backward pass."""
    lost = torchrun(tmp_path / "run", 2, "--lose-at", "2", "--die-rank", "1")
    assert lost.returncode != 0
    assert "svp: process 1 (on " in lost.stderr
    assert "): the row of step 2 is lost" in lost.stderr
    assert len(losses(tmp_path / "run")) == 2
