"""`svp train --resume auto` on two processes that see two folders of the same name."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support import forked
from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.precompute import launch as precompute
from svp.pipeline.precompute.options import Flags
from svp.pipeline.precompute.run import RunOptions

# Rank 1 works in the folder beside: another machine, whose `runs` is its own.
PROGRAM = """
import os, sys
if os.environ.get("RANK") == "1":
    os.chdir("../there")
from svp.cli import main
sys.exit(main())
"""
TRAIN = (
    "train", "--from-cache", "cache", "--dataset", "scenes", "--lm", "random:0", "--sam-decoder",
    "shipped", "--device", "cpu", "--partial", "--resume", "auto", "--set",
    "model.shape={hidden: 32, intermediate: 64, layers: 1, heads: 2, kv_heads: 2}", "--set",
    "stages.0={name: align, steps: 1, warmup: 0, add_sspe: false}", "--set",
    "stages.1={name: finetune, steps: 1, warmup: 0}", "--set", "global_batch=2", "--set",
    "run={micro_batch: 1, gradient_checkpointing: false, preview: 0, checkpoint: 1, log: 1}",
)  # fmt: skip


def svp(folder: Path, world: int) -> subprocess.CompletedProcess[str]:
    (folder / "svp_main.py").write_text(PROGRAM)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    return subprocess.run(
        [forked.python(), *launcher, "svp_main.py", *TRAIN], cwd=folder, text=True,
        env=forked.launched(os.environ | {"OMP_NUM_THREADS": "1"}), capture_output=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_that_one_process_does_not_see_is_refused_by_all(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    write_scenes(here / "scenes", images=8, seed=3)
    request = precompute.Request(
        dataset=str(here / "scenes"), split="train", out=here / "cache", quiet=True,
        flags=Flags(points_per_side=8, store_sam_embeddings=True),
        run=RunOptions(workers=0, limit=2),
    )  # fmt: skip
    precompute.launch(request, precompute.open_request(request))
    shutil.copytree(here, there)

    begun = svp(here, 1)
    assert begun.returncode == 0, begun.stderr
    # The run ended; without its end and the last checkpoint there is a step to do.
    (run,) = (here / "runs").iterdir()
    shutil.rmtree(run / "checkpoints/step-00000002")

    refused = svp(here, 2)
    assert refused.returncode != 0
    assert "process 1 (on " in refused.stderr
    assert "the checkpoint of step 1 that process 0 resumes" in refused.stderr
    assert not (there / "runs").exists() and len(list((here / "runs").iterdir())) == 1

    # Another cache under the same name would be trained on in turn with ours.
    shutil.rmtree(there / "cache")
    request = precompute.Request(
        dataset=str(here / "scenes"), split="train", out=there / "cache", quiet=True,
        flags=Flags(points_per_side=4, store_sam_embeddings=True),
        run=RunOptions(workers=0, limit=2),
    )  # fmt: skip
    precompute.launch(request, precompute.open_request(request))
    refused = svp(here, 2)
    assert refused.returncode != 0
    assert "would run something else: cache 0: " in refused.stderr
