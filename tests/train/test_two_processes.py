"""From a GLaMM-layout folder: two processes train what one trains, step by step."""

import json
import subprocess
from pathlib import Path

import pytest

from support import forked
from svp.model.conversion.stand_in import write_standin
from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.precompute.launch import Request, launch, open_request
from svp.pipeline.precompute.options import Flags
from svp.pipeline.precompute.run import RunOptions
from svp.train.trainer.checkpoint import checkpoints

pytest.importorskip("sentencepiece", reason="pip install 'svp[train]'")
RECIPE = """
name: two
model:
  init: given
  vision: {encoder: tiny, size: 128}
  projector: {name: svp, options: {num_queries: 2, sspe_dim: 8, sspe_heads: 2, sspe_blocks: 1,
              sspe_ffn: 16, ssa_heads: 2, ssa_blocks: 1, ssa_ffn: 16, mlp_hidden: 16}}
  dtype: float32
stages:
  - {name: align, steps: 2, warmup: 0, add_sspe: false}
  - {name: finetune, steps: 1, warmup: 0, add_sspe: true, lora: true}
global_batch: 4
run: {micro_batch: 2, keep: 1, log: 1, preview: 0, threads: 1}
"""
SETTINGS = "folder: .\nsam: {vit_h: [64, 1]}\nin_process: true\n"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_have_the_losses_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dial.yaml").write_text(SETTINGS)
    Path("recipe.yaml").write_text(RECIPE)
    monkeypatch.setenv("SVP_REHEARSAL", str(tmp_path / "dial.yaml"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_standin(Path("GLaMM-RefSeg"))
    data = write_scenes(Path("scenes"), images=4, seed=0, splits={"train": 4})
    flags = Flags(superpixels="slic", sam_model="vit_h", sam_weights="random:0",
                  store_sam_embeddings=True)  # fmt: skip
    request = Request(
        dataset=str(data), split="train", out=Path("cache"), flags=flags, quiet=True,
        run=RunOptions(workers=0),
    )  # fmt: skip
    launch(request, open_request(request))

    train = ["-m", "svp", "train", "--recipe", "recipe.yaml", "--from-cache", "cache", "--dataset",
             str(data), "--init", "GLaMM-RefSeg", "--device", "cpu", "--runs"]  # fmt: skip
    several = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
               "--mixed_precision", "no"]  # fmt: skip
    found = [_losses([*train, "one"]), _losses([*several, *train, "two"])]
    worlds = [checkpoints(next(Path(run).glob("*/checkpoints")))[-1].state.world
              for run in ("one", "two")]  # fmt: skip
    assert worlds == [1, 2]
    assert len(found[0]) == 3
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def _losses(words: list[str]) -> list[float]:
    done = subprocess.run(
        [forked.python(), *words], env=forked.launched(), check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    (metrics,) = Path(words[-1]).glob("*/metrics.jsonl")
    return [json.loads(line)["loss"] for line in metrics.read_text().splitlines()]
