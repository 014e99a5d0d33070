"""`torchrun` jobs that lose a rank, and go on with another number of processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import micro_run

PROGRAM = Path(micro_run.__file__)
# Dropout draws by process; without it a global batch has one loss whatever it is split into.
MODEL = {"dtype": "float32", "lora": {"r": 2, "targets": ["q_proj"], "dropout": 0.0}}


def torchrun(root: Path, world: int, *options: str) -> subprocess.CompletedProcess[str]:
    """The job on this machine; every rank takes its share of a global batch of 6 at once."""
    run = {"micro_batch": 6 // world, "gradient_checkpointing": False, "checkpoint": 1, "keep": 9,
           "log": 1, "preview": 0}  # fmt: skip
    recipe = json.dumps({"global_batch": 6, "model": MODEL, "run": run})
    env = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone",
         f"--nproc-per-node={world}", str(PROGRAM), str(root), "--recipe", recipe, *options],
        env=env, text=True, capture_output=True, timeout=400, check=False,
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
